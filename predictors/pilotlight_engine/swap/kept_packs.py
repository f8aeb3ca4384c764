"""Packed weights of models that this engine has served before, for when they come back. Bounded; the model that was
served longest ago goes first.

Packing is most of a swap on a CPU: what was packed once is only put back. It must not know how anything is packed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FilesStamp = tuple[tuple[str, int, int, int, int], ...]


def stamp(files: Iterable[Path]) -> FilesStamp:
    """Another one as soon as one of the files is another. Raises OSError."""
    found = sorted((str(path), path.stat()) for path in set(files))
    return tuple((path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns) for path, facts in found)


class KeptPacks:
    """`most`: models beside the served one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._packs: OrderedDict[FilesStamp, Sequence[Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._packs)

    def exchange(self, served: FilesStamp, packs: Sequence[Any], wanted: FilesStamp) -> Sequence[Any] | None:
        """Keep the served model's packs, and give those of `wanted`, where they are here."""
        if wanted == served:
            return packs
        found = self._packs.pop(wanted, None)
        if self._most:
            self._packs[served] = packs
        while len(self._packs) > self._most:
            self._packs.popitem(last=False)
        return found
