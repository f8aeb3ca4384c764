"""What vLLM must know of LoRA adapters before it boots: that they can be loaded, and the largest rank among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilotlight_models.checkpoint import adapter_rank
from pilotlight_models.folder_files import FileRefused, check_folder
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
