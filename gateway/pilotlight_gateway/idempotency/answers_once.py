"""A request that its client named is run once: a second one with its id joins it, or gets what it was answered.

    x-request-id, Idempotency-Key   same tenant, same id, same request: one execution
    another request with that id    409
    Last-Event-ID                   the events after that one

Who leaves may come back for a few seconds; then the work is ended. A failure is told to all who wait, and not kept: a
later one tries again. Ids that no client sent cost nothing of this.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from pilotlight_gateway.idempotency.kept_answer import KeptAnswer
from pilotlight_gateway.request_steps import GatewayRequest, Run
from pilotlight_protocol.errors import Conflict, TooManyRequests
from pilotlight_wire.handlers import Reply, Stream

KEPT_S = 300.0
RETURN_WITHIN_S = 5.0
MOST_BYTES = 256 * 1024 * 1024
MOST_BYTES_OF_TENANT = 32 * 1024 * 1024
MOST_ANSWERS_OF_TENANT = 1024
MOST_RUNNING_OF_TENANT = 256
_ID_HEADERS = ("idempotency-key", "x-request-id")
_LONGEST_ID_CHARS = 256

_Key = tuple[str, str]


class AnswersOnce:
    """Implements `request_steps.Once`, in the memory of one process. `close` ends what runs."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._answers: OrderedDict[_Key, KeptAnswer] = OrderedDict()
        self._ended_s: OrderedDict[_Key, float] = OrderedDict()
        self._running: dict[_Key, asyncio.Task[None]] = {}

    async def answer(self, request: GatewayRequest, run: Run) -> Reply | Stream:
        key = _key(request)
        if key is None:
            return await run()
        self._drop_old()
        answer = self._answers.get(key)
        fingerprint = _fingerprint(request)
        if answer is None:
            if "last-event-id" in request.context.headers:
                # Another run would give other events under the same numbers.
                raise Conflict(f"what the id {key[1]!r} was answered is not kept any more; ask anew, with another id")
            if sum(tenant == key[0] for tenant, _ in self._running) >= MOST_RUNNING_OF_TENANT:
                raise TooManyRequests(
                    f"{MOST_RUNNING_OF_TENANT} requests with ids of their own run already; send it again later",
                    retry_after_s=1,
                )
            answer = self._answers[key] = KeptAnswer(fingerprint, lambda: self._abandoned(key))
            self._running[key] = asyncio.create_task(self._make(key, answer, request, run), name="named request")
        elif answer.fingerprint != fingerprint:
            raise Conflict(f"another request had the id {key[1]!r} within the last minutes; take a new one")
        return await answer.follow(request.context)

    async def _make(self, key: _Key, answer: KeptAnswer, request: GatewayRequest, run: Run) -> None:
        error: BaseException | None = None
        try:
            await answer.take(await run(), request.context)
        except BaseException as raised:
            error = raised
            if isinstance(raised, asyncio.CancelledError):
                raise
        finally:
            answer.end(error)
            del self._running[key]
            if error is None and not answer.failed:
                self._ended_s[key] = self._now_s()
                self._make_room(key[0])
            else:
                self._answers.pop(key, None)

    def _abandoned(self, key: _Key) -> None:
        def end() -> None:
            answer, task = self._answers.get(key), self._running.get(key)
            if answer is not None and task is not None and not answer.readers:
                task.cancel()

        asyncio.get_running_loop().call_later(RETURN_WITHIN_S, end)

    def _drop_old(self) -> None:
        while self._ended_s:
            key, ended_s = next(iter(self._ended_s.items()))
            if self._now_s() - ended_s < KEPT_S:
                return
            self._drop(key)

    def _make_room(self, tenant: str) -> None:
        """The oldest of the tenant go first, then the oldest of all."""
        for bound, keys in (
            (MOST_BYTES_OF_TENANT, [key for key in self._ended_s if key[0] == tenant]),
            (MOST_BYTES, list(self._ended_s)),
        ):
            kept = sum(self._answers[key].size_bytes for key in keys)
            left = len(keys)
            for key in keys:
                if kept <= bound and (bound == MOST_BYTES or left <= MOST_ANSWERS_OF_TENANT):
                    break
                kept -= self._answers[key].size_bytes
                left -= 1
                self._drop(key)

    def _drop(self, key: _Key) -> None:
        del self._ended_s[key]
        self._answers.pop(key, None)

    async def close(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def _key(request: GatewayRequest) -> _Key | None:
    if request.place.method != "POST":
        return None
    for header in _ID_HEADERS:
        given = request.context.headers.get(header)
        if given:
            short = given if len(given) <= _LONGEST_ID_CHARS else hashlib.sha256(given.encode()).hexdigest()
            return request.caller.tenant, f"{header} {short}"
    return None


def _fingerprint(request: GatewayRequest) -> bytes:
    # Which endpoint a route chooses may change while the request stays the same.
    meant = f"{request.entry.namespace}/{request.entry.name}" if request.routed is None else "a route"
    digest = hashlib.sha256(f"{request.place.target}\n{meant}\n".encode())
    digest.update(request.context.body)
    return digest.digest()
