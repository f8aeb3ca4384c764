"""The events of an answer, with what has to end when they do. No generator: one that never ran would end nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

from pilotlight_serving.http_app import close_events
from pilotlight_wire.poured_events import Sink, pour


class Held(Protocol):
    async def aclose(self) -> None: ...


class HeldEvents:
    """Closing it closes `events` first, then what is held, the latest last."""

    def __init__(self, events: AsyncIterator[bytes], *held: Held) -> None:
        self._events = events
        self._held = held
        self._first: bytes | None = None

    def begun(self, first: bytes | None, *held: Held) -> HeldEvents:
        """`first` was read from it already, and is given again; `held` ends with it, too."""
        self._first = first
        self._held = (*self._held, *held)
        return self

    def __aiter__(self) -> HeldEvents:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._events)

    async def pour(self, sink: Sink) -> None:
        if self._first is not None:
            sink.write(self._first)
            self._first = None
        await pour(self._events, sink)

    async def aclose(self) -> None:
        async with AsyncExitStack() as ends:
            for each in reversed(self._held):
                ends.push_async_callback(each.aclose)
            await close_events(self._events)
