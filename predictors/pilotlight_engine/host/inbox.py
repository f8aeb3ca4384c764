"""The host's way in: frames the socket thread has read and the engine thread has not handled yet. Bounded.

Between two steps the engine thread takes all of them at once, so requests that arrived together join the same batch;
while there is nothing to do it sleeps here and burns no CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """`on_room` is called when a full inbox was emptied: the socket thread may read again."""

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        self._limit = limit
        self._on_room = on_room
        self._frames: list[T] = []
        self._arrived = threading.Condition()
        self._was_full = False

    def put(self, frame: T) -> bool:
        """Add a frame; False when the inbox is full with it, so that no more is read from the socket."""
        with self._arrived:
            self._frames.append(frame)
            self._arrived.notify()
            self._was_full = len(self._frames) >= self._limit
            return not self._was_full

    def take(self, *, wait: bool) -> list[T]:
        """All frames that are here; with `wait`, sleeps until there is one."""
        if not wait and not self._frames:
            return []
        with self._arrived:
            while wait and not self._frames:
                self._arrived.wait()
            frames, self._frames = self._frames, []
            was_full, self._was_full = self._was_full, False
        if was_full:
            self._on_room()
        return frames
