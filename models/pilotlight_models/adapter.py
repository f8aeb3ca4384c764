"""What a LoRA adapter's folder says, in PEFT's layout: its config, and its tensors' names and shapes. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight_models.checkpoint import MAX_HEADERS_BYTES
from pilotlight_models.folder_files import FileRefused, check_folder, read_object, read_weights_header
from pilotlight_protocol.fingerprint import HeaderInvalid, TensorEntry, tensor_spans

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class AdapterFolder:
    """`tensors`: of the one file that an engine opens."""

    directory: Path
    config: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    weights_bytes: int


def folder_stamp(directory: Path) -> str:
    """Another one as soon as what an engine reads there is another; "" where it is not there."""
    try:
        facts = [(directory / name).stat() for name in (CONFIG_NAME, WEIGHTS_NAME)]
    except OSError:
        return ""
    return " ".join(f"{each.st_ino} {each.st_size} {each.st_mtime_ns}" for each in facts)


def read_adapter(directory: Path) -> AdapterFolder:
    """Raises FileRefused: it is no adapter in safetensors, or holds what would hold up who opens it; OSError."""
    files = {path.name for path in check_folder(directory)}
    config = read_object(directory / CONFIG_NAME)
    if config is None:
        raise FileRefused(f"there is no {CONFIG_NAME}, so this is not a LoRA adapter")
    if WEIGHTS_NAME not in files:
        if any(name.endswith(_PICKLES) for name in files):
            raise FileRefused(
                "its weights are pickled, and loading those can run code; save them as safetensors (PEFT's default)"
            )
        raise FileRefused(f"there is no {WEIGHTS_NAME}")
    try:
        header, size_bytes = read_weights_header(directory / WEIGHTS_NAME, MAX_HEADERS_BYTES)
        spans = tensor_spans(header, size_bytes)
    except (FileNotFoundError, HeaderInvalid) as error:
        raise FileRefused(f"{WEIGHTS_NAME} is no valid safetensors file: {error}") from error
    return AdapterFolder(directory, config, tuple(span.entry for span in spans), size_bytes)
