"""Keys that have work to do: each is in the queue once, however often it is added (client-go's workqueue).

Bounded by the number of keys there are. Must not: know what a key means.
"""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """`add` never waits and may be called from anywhere on the loop; `get` gives the keys in the order they came."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._filled = asyncio.Event()

    def add(self, key: Key) -> None:
        """Something about `key` may have changed."""
        self._keys[key] = None
        self._filled.set()

    async def get(self) -> Key:
        """The next key; it may be added again from now on."""
        await self._filled.wait()
        key = next(iter(self._keys))
        del self._keys[key]
        if not self._keys:
            self._filled.clear()
        return key
