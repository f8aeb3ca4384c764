"""What a predictor says to a warm pool: ask for a lease until it is granted, renew it, give it back. Blocking.

    POST /v1/leases ──active──▶ granted
          │ ▲ queued, placing
          ▼ │ 404, 410: the pool was restarted
    GET /v1/leases/{id}?wait_s ──active──▶ granted

Every call has a deadline. The secret is in no message and no log line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from pilotlight_engine.leasing.lease_errors import LeaseEnded, LeaseRefused, PoolUnreachable
from pilotlight_engine.leasing.pool_http import Answer, Transport
from pilotlight_protocol.errors import PilotlightError, from_status

# Long enough for a swap, so that most leases take one call; short, because the id that gives the lease back is not
# known before.
FIRST_WAIT_S = 0.25
POLL_WAIT_S = 20.0
CALL_DEADLINE_S = 10.0
EXPIRES_S = 15.0
_SERVING = ("active", "idle")


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """The body of `POST /v1/leases`, but for its times. `model`: a URI or a directory. `tenant` None: the lease key's.
    `prewarm`: a schedule; None says nothing of one."""

    model: str
    model_name: str
    tenant: str | None = None
    priority: str = "normal"
    engine_args: Mapping[str, str] = field(default_factory=dict)
    quantization: str = "auto"
    loras: tuple[tuple[str, str], ...] = ()
    isolation: str | None = None
    prewarm: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. `path`: how the engine was got (loaded, swap, fork, boot), `phases_s` what that took."""

    lease_id: str
    secret: str = field(repr=False)
    endpoint: str
    expires_s: float
    path: str
    phases_s: Mapping[str, float]


class LeaseAsk:
    """Asks for one lease. `run` in a thread of its own; `cancel` from any other ends it and gives back what it got.

    `deadline_s`: the pool refuses at once where it expects to take longer.
    """

    def __init__(
        self,
        wish: LeaseWish,
        transport: Callable[[], Transport],
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wish = wish
        self._transport = transport
        self._deadline_s = deadline_s
        self._clock = clock
        self._lock = threading.Lock()
        self._open: Transport | None = None
        self._cancelled = False

    def run(self) -> Lease:
        """Raises LeaseRefused, PoolUnreachable, LeaseEnded (cancelled), or what is wrong with the wish."""
        until_s = self._clock() + self._deadline_s
        while True:
            opened = self._call("POST", "/v1/leases", self._body(until_s), until_s - self._clock())
            lease_id = _text(opened, "lease_id")
            try:
                lease = self._poll(opened, lease_id, until_s)
                self._keep()
                return lease
            except LeaseEnded:
                if self._cancelled or self._clock() >= until_s:
                    give_back(self._transport(), lease_id)
                    raise
            except BaseException:
                give_back(self._transport(), lease_id)
                raise

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._open is not None:
                self._open.close()

    def _keep(self) -> None:
        with self._lock:
            if self._cancelled:
                raise LeaseEnded("no longer wanted")

    def _poll(self, answer: Mapping[str, Any], lease_id: str, until_s: float) -> Lease:
        secret = _text(answer, "secret")
        while (state := _text(answer, "state")) not in _SERVING:
            left_s = until_s - self._clock()
            if left_s <= 0:
                reasons = "; ".join(answer.get("reasons", ())) or f"it is {state}"
                raise LeaseRefused(
                    f"no engine within {self._deadline_s:g} s: {reasons}", retry_after_s=answer.get("eta_s") or 5.0
                )
            wait_s = min(POLL_WAIT_S, left_s)
            answer = self._call("GET", f"{_path(lease_id)}?wait_s={wait_s:.3f}", None, wait_s)
        return _granted(answer, lease_id, secret)

    def _body(self, until_s: float) -> dict[str, Any]:
        body = asdict(self._wish)
        return {**body, "deadline_s": max(0.1, until_s - self._clock()), "wait_s": FIRST_WAIT_S}

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, wait_s: float) -> Mapping[str, Any]:
        with self._lock:
            if self._cancelled:
                raise LeaseEnded("no longer wanted")
            transport = self._open = self._transport()
        answer = transport.exchange(method, path, body, wait_s + CALL_DEADLINE_S)
        return _checked(answer, ended=method == "GET")


def begin(ask: LeaseAsk) -> tuple[LeaseAsk, Future[Lease]]:
    """Let it run in a thread of its own, at once."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="lease")
    future = executor.submit(ask.run)
    executor.shutdown(wait=False)
    return ask, future


def renew(transport: Transport, lease_id: str) -> None:
    """Raises LeaseEnded (with the pool's reason), PoolUnreachable."""
    _checked(transport.exchange("POST", f"{_path(lease_id)}/heartbeat", None, CALL_DEADLINE_S), ended=True)


def give_back(transport: Transport, lease_id: str) -> None:
    """Also where the lease is gone already, or nobody answers: it then ends by its expiry."""
    try:
        _checked(transport.exchange("DELETE", _path(lease_id), None, CALL_DEADLINE_S), ended=True)
    except PilotlightError:
        return


def check(transport: Transport) -> None:
    """Raises PoolUnreachable when the pool does not answer."""
    _checked(transport.exchange("GET", "/healthz", None, CALL_DEADLINE_S), ended=False)


def _path(lease_id: str) -> str:
    return f"/v1/leases/{quote(lease_id, safe='')}"


def _granted(answer: Mapping[str, Any], lease_id: str, secret: str) -> Lease:
    phases_s = {str(name): float(seconds) for name, seconds in answer.get("phases_s", {}).items()}
    endpoint, path = _text(answer, "endpoint"), str(answer.get("path", ""))
    return Lease(lease_id, secret, endpoint, float(answer.get("expires_s", EXPIRES_S)), path, phases_s)


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise PoolUnreachable(f"the warm pool's answer has no '{name}'; is --pool_url its address?")
    return value


def _checked(answer: Answer, *, ended: bool) -> Mapping[str, Any]:
    """The content of a good answer. `ended`: 404 and 410 mean that the lease has ended, not that the wish is wrong."""
    if answer.status < 300:
        return answer.content
    message = answer.content.get("error")
    if ended and answer.status in (404, 410):
        raise LeaseEnded(str(message))
    if not isinstance(message, str):
        raise PoolUnreachable(f"not a warm pool's answer: status {answer.status}", retry_after_s=5)
    if answer.status == 429 or answer.status >= 500:
        raise LeaseRefused(f"the warm pool: {message}", retry_after_s=answer.retry_after_s or 5.0)
    raise from_status(answer.status, f"the warm pool refuses: {message}")
