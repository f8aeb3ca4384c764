"""The requests in flight over HTTP and gRPC together: bounded, refused late in a drain, told to metrics and log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pilotlight_protocol.errors import Unavailable
from pilotlight_serving.metrics import answered, phase_seconds
from pilotlight_wire.handlers import RequestContext

# Of a server that ends because it can never serve: somebody has to mend its configuration first.
FAILED_RETRY_AFTER_S = 60.0

_LOGS = {transport: logging.getLogger(f"pilotlight.{transport}") for transport in ("http", "grpc")}
_FAILED_FROM = 400

Transport = Literal["http", "grpc"]


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """`what`: method and path, or the model of a gRPC call. `status`: HTTP's number or gRPC's name."""

    transport: Transport
    what: str
    status: str
    seconds: float
    context: RequestContext

    @property
    def failed(self) -> bool:
        return int(self.status) >= _FAILED_FROM if self.status.isdigit() else self.status != "OK"


def logged_in_a_line(ended: EndedRequest) -> None:
    log, request_id = _LOGS[ended.transport], ended.context.request_id
    log.info("%s %s %.1f ms id=%s", ended.what, ended.status, ended.seconds * 1000, request_id)


class ConcurrencyLimiter:
    """`ended` is told of each request that is over. `draining`: a signal to end has come; `refusing`: no new request is
    taken any more.

    `why_ending`: what clients are told then; None where another replica can serve them.
    """

    def __init__(self, max_concurrent: int, ended: Callable[[EndedRequest], None] = logged_in_a_line) -> None:
        self.ended = ended
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


class CountedRequest:
    """One request's place; raises what `ConcurrencyLimiter.enter` does. `observe`: its seconds, once it has ended."""

    __slots__ = ("_context", "_limiter", "_observe", "_started_at", "_transport")

    def __init__(
        self,
        limiter: ConcurrencyLimiter,
        context: RequestContext,
        transport: Transport,
        observe: Callable[[float], None],
    ) -> None:
        limiter.enter()
        self._limiter = limiter
        self._context = context
        self._transport = transport
        self._observe = observe
        self._started_at = time.perf_counter()

    def end(self, what: str, status: str) -> None:
        """Give the place back, and tell how it went."""
        elapsed_s = time.perf_counter() - self._started_at
        context = self._context
        self._limiter.leave()
        self._observe(elapsed_s)
        answered(self._transport, status).inc()
        for phase, milliseconds in context.server_timing.items():
            phase_seconds(phase.partition(";")[0]).observe(milliseconds / 1000)
        self._limiter.ended(EndedRequest(self._transport, what, status, elapsed_s, context))
