"""The tensors of a checkpoint as they lie in the page cache: mapped, not read. Adapter to mmap and torch."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pilotlight_models.checkpoint import TensorPlace
from pilotlight_models.folder_files import opened

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32, "I64": torch.int64,
    "I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip


class MappedWeights:
    """Tensors over the files' pages; these are read when a tensor is copied. Safe to use from several threads."""

    def __init__(self, places: Mapping[str, TensorPlace]) -> None:
        self._places = places
        self._maps = {path: _map(path) for path in {place.file for place in places.values()}}

    def tensors(self, names: Sequence[str]) -> list[torch.Tensor]:
        """`[rows, columns]` each, or whatever shape they have in the file."""
        return [self._view(place, place.length).view(place.entry.shape) for place in self._of(names)]

    def joined(self, names: Sequence[str]) -> torch.Tensor | None:
        """The tensors' rows below one another, where the file has them so: `[rows of all, columns]`. Else None."""
        places = self._of(names)
        first = places[0]
        for one, following in itertools.pairwise(places):
            if (following.file, following.start) != (one.file, one.start + one.length):
                return None
        return self._view(first, sum(place.length for place in places)).view(-1, *first.entry.shape[1:])

    def _of(self, names: Sequence[str]) -> list[TensorPlace]:
        return [self._places[name] for name in names]

    def _view(self, place: TensorPlace, length: int) -> torch.Tensor:
        data = self._maps[place.file]
        return torch.frombuffer(data, dtype=torch.uint8, count=length, offset=place.start).view(
            DTYPES[place.entry.dtype]
        )


def _map(path: Path) -> mmap.mmap:
    with opened(path) as (descriptor, _):
        # Private and writable, though nothing writes: torch warns of a read-only buffer.
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
