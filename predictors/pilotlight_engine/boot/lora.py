"""LoRA adapters before vLLM sees them: that they can be loaded, and the largest rank among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilotlight_engine.boot import adapter_check, checkpoint_check
from pilotlight_models.adapter import AdapterFolder, read_adapter
from pilotlight_models.checkpoint import Checkpoint, adapter_rank
from pilotlight_models.folder_files import FileRefused, check_folder
from pilotlight_protocol.adapters import AT_ONCE, kept
from pilotlight_protocol.errors import InvalidInput

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's --max-lora-rank choices from 8 on


def max_lora_rank(loras: Sequence[tuple[str, str]]) -> int:
    """The least rank vLLM offers that holds every adapter. Raises InvalidInput that names the adapter in the way."""
    largest = 1
    for name, directory in loras:
        path = Path(directory)
        if not any(path.glob("*.safetensors")):
            raise InvalidInput(f"LoRA adapter '{name}': {path} holds no safetensors weights")
        try:
            check_folder(path)
            largest = max(largest, adapter_rank(path))
        except FileRefused as error:
            raise InvalidInput(f"LoRA adapter '{name}': {path}: {error.message}") from None
    for rank in _RANKS:
        if rank >= largest:
            return rank
    raise InvalidInput(f"a LoRA adapter has rank {largest}; vLLM runs up to {_RANKS[-1]}")


def adapter_arguments(rank: int) -> dict[str, str]:
    """vLLM's arguments of an engine for adapters of this rank class."""
    sizes = {"max_lora_rank": rank, "max_loras": AT_ONCE[rank], "max_cpu_loras": kept(rank)}
    return {"enable_lora": "true", **{name: str(size) for name, size in sizes.items()}}


def checked_adapter(directory: Path, base: Checkpoint) -> AdapterFolder:
    """An endpoint's adapter for this base. Raises InvalidInput that says what is wrong with it, and no folder."""
    try:
        adapter = read_adapter(directory)
        layers = checkpoint_check.linear_layers(base.config, [place.entry for place in base.tensors])
    except OSError as error:
        raise InvalidInput(f"the adapter cannot be read: {error.strerror or error}", param="adapter") from error
    except FileRefused as error:
        raise InvalidInput(f"the adapter cannot be served: {error.message}", param="adapter") from error
    if found := adapter_check.reasons(adapter.config, adapter.tensors, layers):
        raise InvalidInput(f"the adapter cannot be served with this base: {'; '.join(found)}", param="adapter")
    return adapter
