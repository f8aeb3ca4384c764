"""Where the handlers of responses keep them: the seam, and its implementation in this process.

A store that several processes share is a gateway's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from pilotlight_text.responses_api.stored_responses import StoredResponse, StoredResponses

LONGEST_ON_THE_LOOP_BYTES = 256 * 1024
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_item = msgspec.json.Decoder(dict[str, Any])


class ResponseStore(Protocol):
    """Whose a response is decides who finds it: another's is as unknown as one that never was."""

    async def put(self, response: StoredResponse) -> None: ...

    async def get(self, response_id: str, tenant: str) -> StoredResponse:
        """Raises ResponseNotFound."""
        ...

    async def delete(self, response_id: str, tenant: str) -> None:
        """Raises ResponseNotFound; Unavailable where it would still be found elsewhere."""
        ...

    async def history(self, previous_id: str, tenant: str, model: str) -> bytes:
        """The items of that response and of all it continues as a JSON list, oldest first. Raises
        PreviousResponseNotFound, and InvalidInput where there are too many."""
        ...


class KeptHere:
    """Implements ResponseStore. `now_s`: Unix seconds, or any that pass as these do."""

    def __init__(self, stored: StoredResponses | None = None, now_s: Callable[[], float] = time.time) -> None:
        self._stored = stored or StoredResponses()
        self._now_s = now_s

    async def put(self, response: StoredResponse) -> None:
        self._stored.put(response, self._now_s())

    async def get(self, response_id: str, tenant: str) -> StoredResponse:
        return self._stored.get(response_id, tenant, self._now_s())

    async def delete(self, response_id: str, tenant: str) -> None:
        self._stored.delete(response_id, tenant, self._now_s())

    async def history(self, previous_id: str, tenant: str, model: str) -> bytes:
        return self._stored.history(previous_id, tenant, model, self._now_s())


async def read_items(history: bytes) -> list[dict[str, Any]]:
    """Of `ResponseStore.history`: many of them in a thread, for the loop's other requests."""
    if len(history) <= LONGEST_ON_THE_LOOP_BYTES:
        return _read(history)
    return await asyncio.to_thread(_read, history)


def _read(history: bytes) -> list[dict[str, Any]]:
    """One by one: other threads run between two calls of the decoder, and not within one."""
    return [_item.decode(part) for part in _parts.decode(history)]
