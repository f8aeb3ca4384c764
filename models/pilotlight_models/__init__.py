"""The demo model, bundled in the wheel, and the code that makes it and models like it.

Responsible for finding the bundled checkpoints; this module imports nothing heavy. The other modules need torch and
`tokenizers` and serve scripts, tests and benchmarks only:

    story_corpus, topics, chat_corpus   the training text
    byte_level_tokenizer                the tokenizer and its chat template
    llama, training                     the network and how it is trained
    awq_packing, awq_calibration        4-bit quantization
    checkpoint                          the Hugging Face layout on disk
"""

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
