"""How the pieces of an answer get from where they come to the client's connection: with no task woken for each of
them, where what they come from can hand them on as it reads them.

Such events have a `pour` beside `__anext__`; what only holds other events passes it on. It must not know
what a piece is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol


class Sink(Protocol):
    """Where the pieces of an answer go. `is_full`: the client reads too slowly; `drained` before the next piece."""

    @property
    def is_full(self) -> bool: ...

    def write(self, piece: bytes) -> None: ...

    async def drained(self) -> None: ...


class ChangedSink:
    """Writes to `sink` what `change` makes of each piece, which is never nothing."""

    __slots__ = ("_change", "_sink")

    def __init__(self, sink: Sink, change: Callable[[bytes], bytes]) -> None:
        self._sink = sink
        self._change = change

    @property
    def is_full(self) -> bool:
        return self._sink.is_full

    def write(self, piece: bytes) -> None:
        self._sink.write(self._change(piece))

    async def drained(self) -> None:
        await self._sink.drained()


async def pour(events: AsyncIterator[bytes], sink: Sink) -> None:
    """All that is left of `events`, in order. Raises what reading them raises."""
    direct: Any = getattr(events, "pour", None)
    if direct is not None:
        await direct(sink)
        return
    async for piece in events:
        sink.write(piece)
        if sink.is_full:
            await sink.drained()
