"""The events of an answer, with what has to end when they do. No generator: one that never ran would end nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from pilotlight_serving.http_app import close_events


class HeldEvents:
    """Closing it closes `events` first, then `held`. `first`: an event that was read from them already."""

    def __init__(self, events: AsyncIterator[bytes], held: AsyncExitStack, first: bytes | None = None) -> None:
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

    async def aclose(self) -> None:
        try:
            await close_events(self._events)
        finally:
            await self._held.aclose()
