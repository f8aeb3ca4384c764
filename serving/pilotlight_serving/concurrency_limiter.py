"""Counts the requests in flight over HTTP and gRPC together, bounds them, and refuses new ones late in a drain."""

from __future__ import annotations

import time

from pilotlight_protocol.errors import Unavailable

# Of a server that ends because it can never serve: somebody has to mend its configuration first.
FAILED_RETRY_AFTER_S = 60.0


class ConcurrencyLimiter:
    """`draining`: a signal to end has come; `refusing`: no new request is taken any more.

    `why_ending`: what clients are told then; None where another replica can serve them.
    """

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self.in_flight = 0
        self.draining = False
        self.refusing = False
        self.why_ending: str | None = None
        self._last_change = time.monotonic()

    def enter(self) -> None:
        """Take a place; raises Unavailable when there is none or when the server is ending."""
        if self.refusing:
            raise self.ending()
        if self.in_flight >= self._max_concurrent:
            raise Unavailable(
                f"{self.in_flight} requests are in flight, the most this server takes; try again", retry_after_s=1
            )
        self.in_flight += 1
        self._last_change = time.monotonic()

    def leave(self) -> None:
        self.in_flight -= 1
        self._last_change = time.monotonic()

    def quiet_for_s(self) -> float:
        """Seconds since a request last arrived or ended."""
        return time.monotonic() - self._last_change

    def start_draining(self) -> None:
        self.draining = True
        self._last_change = time.monotonic()

    def ending(self) -> Unavailable:
        if self.why_ending is not None:
            return Unavailable(self.why_ending, retry_after_s=FAILED_RETRY_AFTER_S)
        return Unavailable("this server is shutting down; send the request again, another replica will answer")
