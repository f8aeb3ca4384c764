"""What an engine needs of a model's folder: that it can be loaded.

Blocking: call it before the event loop runs, or in a thread. Pickle weights are refused (they run code when loaded),
and code that a repository brings along is never run.
"""

from __future__ import annotations

from pathlib import Path

from pilotlight_models.folder_files import check_folder
from pilotlight_protocol.errors import InvalidInput, ModelNotFound

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_directory(directory: Path) -> Path:
    """The same directory if an engine can load it: config, safetensors weights, nothing that holds up who opens it.

    Raises ModelNotFound, InvalidInput.
    """
    if not directory.is_dir():
        raise ModelNotFound(f"there is no model directory {directory}; check --model_dir or the mount")
    files = check_folder(directory)
    if directory / "config.json" not in files:
        raise InvalidInput(f"{directory} has no config.json, so it is not a Hugging Face checkpoint")
    if not any(path.suffix == ".safetensors" for path in files):
        if any(path.suffix in _PICKLES for path in files):
            raise InvalidInput(
                f"{directory} holds pickle weights only, which run code when they are loaded; "
                "convert them to safetensors"
            )
        raise InvalidInput(f"{directory} holds no *.safetensors weights")
    return directory


def weights_bytes(directory: Path) -> int:
    """Size of the safetensors files, which is about what the loaded weights take."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
