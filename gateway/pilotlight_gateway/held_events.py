"""The events of an answer, with what has to end when they do. No generator: one that never ran would end nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from pilotlight_serving.http_app import close_events
from pilotlight_wire.poured_events import Sink, pour


class Held(Protocol):
    async def aclose(self) -> None: ...


class HeldEvents:
    """Closing it closes `events` first, then `held`. `first`: an event that was read from them already."""

    def __init__(self, events: AsyncIterator[bytes], held: Held, first: bytes | None = None) -> None:
        self._events = events
        self._held = held
        self._first = first

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
        try:
            await close_events(self._events)
        finally:
            await self._held.aclose()
