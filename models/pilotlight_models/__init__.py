"""The demo model, bundled in the wheel, and where its checkpoints are. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

BUNDLED_MODELS = ("demo-awq", "demo-bf16")
"""Names that `bundled_model_path` knows; `bundled://NAME` is the URI of each."""


def bundled_model_path(name: str) -> Path:
    """Return the folder of a bundled checkpoint in the Hugging Face layout.

    Raises:
        LookupError: no bundled model has this name, or its files are missing from the installation.
    """
    if name not in BUNDLED_MODELS:
        raise LookupError(f"no bundled model {name!r}; available: {', '.join(BUNDLED_MODELS)}")
    folder = Path(__file__).resolve().parent / name
    if not (folder / "config.json").is_file():
        raise LookupError(f"the bundled model {name!r} is missing at {folder}; install the pilotlight package again")
    return folder
