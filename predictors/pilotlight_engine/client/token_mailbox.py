"""One request's deltas on their way from the socket to the coroutine that reads them. Policy only, no I/O.

Deltas that were not read yet are merged per choice, so a slow reader costs at most `n * max_tokens` token ids of
memory, and a fast one sees each step as it comes.
"""

from __future__ import annotations

import asyncio

from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.generation import TokenDelta


class Mailbox:
    """Belongs to one event loop. `choices` is the number of finish reasons after which the request is over."""

    def __init__(self, choices: int) -> None:
        self._open_choices = choices
        self._unread: dict[int, TokenDelta] = {}
        self._error: PilotlightError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Nothing more will be put: every choice has its reason, or the request failed."""
        return self._open_choices <= 0 or self._error is not None

    def put(self, delta: TokenDelta) -> None:
        unread = self._unread.get(delta.index)
        if unread is None:
            self._unread[delta.index] = delta
        else:
            merge(unread, delta)
        if delta.finish_reason is not None:
            self._open_choices -= 1
        self._wake()

    def fail(self, error: PilotlightError) -> None:
        """End with `error`; what was put before is still read first."""
        if not self.finished:
            self._error = error
            self._wake()

    async def take(self) -> list[TokenDelta]:
        """Everything unread, waiting for the first; empty when the request is over. Raises what `fail` was given."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._open_choices <= 0:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        unread, self._unread = self._unread, {}
        return list(unread.values())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge(into: TokenDelta, later: TokenDelta) -> None:
    """Append a later delta of the same choice to one that was not read yet."""
    into.token_ids.extend(later.token_ids)
    if later.logprobs is not None:
        into.logprobs = (into.logprobs or []) + later.logprobs
    into.finish_reason = later.finish_reason
    into.stop_reason = later.stop_reason
