"""What an engine needs of a model's folder: that it can be loaded, and what its configuration says.

Blocking: call it before the event loop runs, or in a thread. Pickle weights are refused (they run code when loaded),
and code that a repository brings along is never run.
"""

from __future__ import annotations

import json
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput, ModelNotFound

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_directory(directory: Path) -> Path:
    """The same directory if an engine can load it: a config.json and safetensors weights."""
    if not directory.is_dir():
        raise ModelNotFound(f"there is no model directory {directory}; check --model_dir or the mount")
    if not (directory / "config.json").is_file():
        raise InvalidInput(f"{directory} has no config.json, so it is not a Hugging Face checkpoint")
    if not any(directory.glob("*.safetensors")):
        if any(path.suffix in _PICKLES for path in directory.iterdir()):
            raise InvalidInput(
                f"{directory} holds pickle weights only, which run code when they are loaded; "
                "convert them to safetensors"
            )
        raise InvalidInput(f"{directory} holds no *.safetensors weights")
    return directory


def read_config(directory: Path) -> dict[str, object]:
    """The parsed config.json. Raises InvalidInput when it is broken."""
    return _read_object(directory / "config.json")


def read_generation_config(directory: Path) -> dict[str, object]:
    """The parsed generation_config.json, {} where there is none. Raises InvalidInput when it is broken."""
    path = directory / "generation_config.json"
    return _read_object(path) if path.is_file() else {}


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} is not a JSON object")
    return content


def weights_bytes(directory: Path) -> int:
    """Size of the safetensors files, which is about what the loaded weights take."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
