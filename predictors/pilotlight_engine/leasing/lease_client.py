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
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

import msgspec

from pilotlight_engine.leasing.lease_errors import LeaseEnded, LeaseRefused, PoolUnreachable
from pilotlight_engine.leasing.pool_http import Answer, Transport
from pilotlight_protocol.errors import PilotlightError, from_status
from pilotlight_protocol.leases import SERVING, ErrorBody, LeaseAnswer, LeaseRequest

# Long enough for a swap, so that most leases take one call; short, because the id that gives the lease back is not
# known before.
FIRST_WAIT_S = 0.25
POLL_WAIT_S = 20.0
# While another pod of the endpoint answers its requests: how long it may take to notice that it does not any more.
ELSEWHERE_POLL_S = 1.0
CALL_DEADLINE_S = 10.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. `path`: how the engine was got (loaded, swap, fork, boot), `phases_s` what that took; `content`
    as in LeaseAnswer."""

    lease_id: str
    secret: str = field(repr=False)
    endpoint: str
    expires_s: float
    path: str
    phases_s: Mapping[str, float]
    content: str = ""


class LeaseAsk:
    """Asks for one lease. `run` in a thread of its own; `cancel` from any other ends it and gives back what it got.

    `deadline_s`: the pool refuses at once where it expects to take longer. `wish`: but for its times.
    """

    def __init__(
        self,
        wish: LeaseRequest,
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
        self._elsewhere = False
        self._tell_elsewhere: Callable[[bool], None] = lambda elsewhere: None

    def watch(self, tell: Callable[[bool], None]) -> None:
        """`tell` whether another lease of the endpoint has an engine: now, and in the ask's thread on a change."""
        with self._lock:
            self._tell_elsewhere = tell
            tell(self._elsewhere)

    def run(self) -> Lease:
        """Raises LeaseRefused, PoolUnreachable, LeaseEnded (cancelled), or what is wrong with the wish."""
        until_s = self._clock() + self._deadline_s
        while True:
            left_s = until_s - self._clock()
            wish = msgspec.structs.replace(self._wish, deadline_s=max(0.1, left_s), wait_s=FIRST_WAIT_S)
            opened = self._call("POST", "/v1/leases", msgspec.json.encode(wish), left_s)
            try:
                lease = self._poll(opened, until_s)
                self._keep()
                return lease
            except LeaseEnded:
                if self._cancelled or self._clock() >= until_s:
                    give_back(self._transport(), opened.lease_id)
                    raise
            except BaseException:
                give_back(self._transport(), opened.lease_id)
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

    def _poll(self, opened: LeaseAnswer, until_s: float) -> Lease:
        answer, path = opened, _path(opened.lease_id)
        while answer.state not in SERVING:
            self._note(answer.elsewhere)
            left_s = until_s - self._clock()
            if left_s <= 0:
                reasons = "; ".join(answer.reasons) or f"it is {answer.state}"
                raise LeaseRefused(
                    f"no engine within {self._deadline_s:g} s: {reasons}", retry_after_s=answer.eta_s or 5.0
                )
            wait_s = min(ELSEWHERE_POLL_S if answer.elsewhere else POLL_WAIT_S, left_s)
            answer = self._call("GET", f"{path}?wait_s={wait_s:.3f}", None, wait_s)
        if not (opened.secret and answer.endpoint):
            raise _no_pool("a lease that serves has no secret or no endpoint")
        return Lease(
            opened.lease_id,
            opened.secret,
            answer.endpoint,
            answer.expires_s,
            answer.path,
            answer.phases_s,
            answer.content,
        )

    def _note(self, elsewhere: bool) -> None:
        with self._lock:
            if elsewhere != self._elsewhere and not self._cancelled:
                self._elsewhere = elsewhere
                self._tell_elsewhere(elsewhere)

    def _call(self, method: str, path: str, body: bytes | None, wait_s: float) -> LeaseAnswer:
        with self._lock:
            if self._cancelled:
                raise LeaseEnded("no longer wanted")
            transport = self._open = self._transport()
        answer = transport.exchange(method, path, body, wait_s + CALL_DEADLINE_S)
        _check(answer, ended=method == "GET")
        return _decode(answer, LeaseAnswer)


def begin(ask: LeaseAsk) -> tuple[LeaseAsk, Future[Lease]]:
    """Let it run in a thread of its own, at once."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="lease")
    future = executor.submit(ask.run)
    executor.shutdown(wait=False)
    return ask, future


def renew(transport: Transport, lease_id: str) -> None:
    """Raises LeaseEnded (with the pool's reason), PoolUnreachable."""
    _check(transport.exchange("POST", f"{_path(lease_id)}/heartbeat", None, CALL_DEADLINE_S), ended=True)


def give_back(transport: Transport, lease_id: str) -> None:
    """Also where the lease is gone already, or nobody answers: it then ends by its expiry."""
    try:
        _check(transport.exchange("DELETE", _path(lease_id), None, CALL_DEADLINE_S), ended=True)
    except PilotlightError:
        return


def check(transport: Transport) -> None:
    """Raises PoolUnreachable when the pool does not answer."""
    _check(transport.exchange("GET", "/healthz", None, CALL_DEADLINE_S), ended=False)


def _path(lease_id: str) -> str:
    return f"/v1/leases/{quote(lease_id, safe='')}"


def _check(answer: Answer, *, ended: bool) -> None:
    """`ended`: 404 and 410 mean that the lease has ended, not that the wish is wrong."""
    if answer.status < 300:
        return
    message = _decode(answer, ErrorBody).error
    if ended and answer.status in (404, 410):
        raise LeaseEnded(message)
    if answer.status == 429 or answer.status >= 500:
        raise LeaseRefused(f"the warm pool: {message}", retry_after_s=answer.retry_after_s or 5.0)
    raise from_status(answer.status, f"the warm pool refuses: {message}")


def _decode(answer: Answer, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_pool(f"status {answer.status}, {error}") from None


def _no_pool(why: str) -> PoolUnreachable:
    return PoolUnreachable(f"not a warm pool's answer: {why}; is --pool_url its address?", retry_after_s=5)
