"""A request that its client named is run once: a second one with its id joins it, or gets what it was answered.

    x-request-id, Idempotency-Key   same tenant, same id, same request: one execution; what a route's rules and
                                    versions look at is of the request
    another request with that id    409
    Last-Event-ID                   the events after that one

Who leaves may come back for a few seconds; then the work is ended. A failure is told to all who wait, and not kept: a
later one tries again. What there is no room to keep goes on to its readers; who asks for it later is refused. Ids
that no client sent cost nothing of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from pilotlight_gateway.idempotency import redis_answers
from pilotlight_gateway.idempotency.answer_elsewhere import AnswerElsewhere
from pilotlight_gateway.idempotency.kept_answer import KeptAnswer
from pilotlight_gateway.idempotency.last_event import LastEvent, last_event_asked
from pilotlight_gateway.idempotency.owned_answer import OwnedAnswer
from pilotlight_gateway.idempotency.shared_answers import SharedAnswers, TakenAnswer
from pilotlight_gateway.idempotency.told_answer import end_told, told_while_made
from pilotlight_gateway.metering import count_anew, count_unbilled
from pilotlight_gateway.request_steps import GatewayRequest, Run
from pilotlight_gateway.stream_record import StreamRecord
from pilotlight_protocol.answer_record import Seed
from pilotlight_protocol.errors import Conflict, DeadlineExceeded, PilotlightError, TooManyRequests
from pilotlight_wire.handlers import Reply, Stream
from pilotlight_wire.request_time import in_senders_time, left_s

KEPT_S = 300.0
RETURN_WITHIN_S = 5.0
MOST_BYTES = 256 * 1024 * 1024
MOST_BYTES_OF_TENANT = 32 * 1024 * 1024
MOST_ANSWERS_OF_TENANT = 1024
MOST_RUNNING_OF_TENANT = 256
_ID_HEADERS = ("idempotency-key", "x-request-id")
_MEANT_HEADERS = frozenset(("x-model-version", "inference-header-content-length"))
"""Which change what a body means, at every endpoint. What a route depends on beside them, it says itself."""
_LONGEST_ID_CHARS = 256
_ALL = ""  # is no tenant
_log = logging.getLogger("pilotlight.gateway.once")

_Key = tuple[str, str]


class AnswersOnce:
    """Implements `request_steps.Once`, in the memory of one process. `close` ends what runs. `shared`: what other
    replicas make and have made."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic, shared: SharedAnswers | None = None) -> None:
        self._now_s = now_s
        self._shared = shared
        self._claiming: dict[_Key, asyncio.Event] = {}
        self._owned: dict[_Key, OwnedAnswer] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._answers: OrderedDict[_Key, KeptAnswer] = OrderedDict()
        self._bytes_of: Counter[str] = Counter()
        self._ended_s: OrderedDict[_Key, float] = OrderedDict()
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._closing = False

    async def answer(self, request: GatewayRequest, run: Run) -> Reply | Stream:
        key = _key(request)
        if key is None:
            return await run()
        last_event_asked(request.context)  # what is wrong with it is told before anything runs
        self._drop_old()
        named = _Named(key, _fingerprint(request), request, run)
        async with in_senders_time(request.context):
            return await self._answered(named)

    async def _answered(self, named: _Named) -> Reply | Stream:
        context = named.request.context
        while (answer := await self._known(named.key)) is not None:
            if answer.fingerprint != named.fingerprint:
                raise Conflict(f"another request had the id {named.key[1]!r} within the last minutes; take a new one")
            try:
                return await answer.follow(context)
            except DeadlineExceeded:
                if not answer.is_out_of_its_askers_time:
                    raise
        self._check_running(named.key[0])
        elsewhere = await self._claim(named.key, named.fingerprint, named.request)
        if elsewhere is not None:
            return await self._follow(elsewhere, named)
        owned = self._owned.get(named.key)
        if owned is None and "last-event-id" in context.headers:
            # Another run would give other events under the same numbers.
            raise Conflict(f"what the id {named.key[1]!r} was answered is not kept any more; ask anew, with another id")
        request = named.request
        if owned is not None and (request.routed is None or request.routed.cascade is None):
            request.record = StreamRecord(Seed(int(time.time()), secrets.token_hex(16)))
        return await self._begin(named, owned).follow(context)

    async def _known(self, key: _Key) -> KeptAnswer | None:
        """None where there is none here, and nobody is about to have it."""
        while (answer := self._answers.get(key)) is None:
            if (claiming := self._claiming.get(key)) is not None:
                await claiming.wait()
            elif (ending := self._running.get(key)) is not None:
                await asyncio.wait((ending,))
            else:
                break
        return answer

    def _check_running(self, tenant: str) -> None:
        if sum(each == tenant for each, _ in self._running) >= MOST_RUNNING_OF_TENANT:
            raise TooManyRequests(
                f"{MOST_RUNNING_OF_TENANT} requests with ids of their own run already; send it again later",
                retry_after_s=1,
            )

    def _begin(self, named: _Named, owned: OwnedAnswer | None, kept: TakenAnswer | None = None) -> KeptAnswer:
        key, record = named.key, named.request.record
        room = _Room(self, key[0])
        answer = KeptAnswer(named.fingerprint, lambda: self._abandoned(key), room, record)
        if kept is not None:
            head = kept.head
            answer.continue_from(head.content_type, head.headers, head.phases_ms, kept.events, kept.cuts)
        self._answers[key] = answer
        making = self._make(key, answer, named.request, named.run, owned)
        self._running[key] = asyncio.create_task(making, name="named request")
        return answer

    async def _claim(self, key: _Key, fingerprint: bytes, request: GatewayRequest) -> AnswerElsewhere | None:
        """None where it is this process's to make."""
        if self._shared is None:
            return None
        self._claiming[key] = asyncio.Event()
        resumes = "last-event-id" in request.context.headers
        claim = self._shared.claim(key, fingerprint, resumes=resumes)
        claiming = asyncio.create_task(claim, name="claiming a named request")
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            giving_up = asyncio.create_task(self._give_up(key, claiming), name="giving up a named request")
            self._looking.add(giving_up)
            giving_up.add_done_callback(self._looking.discard)
            raise
        except BaseException:
            self._claiming.pop(key).set()
            raise
        self._claiming.pop(key).set()
        if isinstance(claimed, OwnedAnswer):
            self._owned[key] = claimed
            return None
        return claimed

    async def _give_up(self, key: _Key, claiming: asyncio.Task[OwnedAnswer | AnswerElsewhere | None]) -> None:
        """Who asked has left: nobody need wait until its claim expires."""
        try:
            with contextlib.suppress(PilotlightError):
                claimed = await claiming
                if isinstance(claimed, OwnedAnswer):
                    await claimed.forget()
        finally:
            self._claiming.pop(key).set()

    async def _follow(self, elsewhere: AnswerElsewhere, named: _Named) -> Reply | Stream:
        context = named.request.context
        waits_s = left_s(context)
        most_s = min(named.request.entry.timeout_s, math.inf if waits_s is None else waits_s)
        try:
            async with asyncio.timeout(most_s):
                return await elsewhere.follow(context, last_event_asked(context), lambda last: self._go_on(named, last))
        except TimeoutError as error:
            raise DeadlineExceeded(f"nothing came within {most_s:g} s") from error

    async def _go_on(self, named: _Named, last: LastEvent) -> AsyncIterator[bytes] | None:
        """What comes behind that event, of an answer whose replica is gone; None where it is not, or not yet."""
        answer = await self._known(named.key)
        if answer is None:
            answer = await self._take_over(named, last)
        if answer is None or answer.fingerprint != named.fingerprint:
            return None
        return answer.events(last)

    async def _take_over(self, named: _Named, last: LastEvent) -> KeptAnswer | None:
        assert self._shared is not None
        self._check_running(named.key[0])
        self._claiming[named.key] = asyncio.Event()
        try:
            taken = await self._shared.take_over(named.key, named.fingerprint, last)
            if taken is None:
                return None
            left_off = taken.left_off
            is_last = len(taken.cuts) >= redis_answers.MOST_TAKEN
            named.request.record = StreamRecord(Seed.read(left_off.began.seed), left_off, is_last=is_last)
            named.request.context.ends_s = None  # whoever has the beginning waits for the rest
            self._owned[named.key] = taken.owned
            _log.info("request %s goes on here behind %d events", left_off.began.request_id, len(taken.events))
            return self._begin(named, taken.owned, taken)
        finally:
            self._claiming.pop(named.key).set()

    async def _make(
        self, key: _Key, answer: KeptAnswer, request: GatewayRequest, run: Run, owned: OwnedAnswer | None
    ) -> None:
        error: BaseException | None = None
        try:
            if owned is None:
                await answer.take(await run(), request.context)
            else:
                await told_while_made(owned, answer, run, request, lambda: _bill_nothing(request))
        except BaseException as raised:
            error = raised
            if isinstance(raised, asyncio.CancelledError):
                raise
        finally:
            if owned is None or not owned.is_taken:
                answer.show(None)
            waits_s = left_s(request.context)
            answer.is_out_of_its_askers_time = (
                isinstance(error, DeadlineExceeded) and waits_s is not None and waits_s <= 0
            )
            answer.end(error)
            is_kept = error is None and not answer.failed and self._answers.get(key) is answer
            if not is_kept:
                self._answers.pop(key, None)
            try:
                if owned is not None:
                    is_left = self._is_left(owned, answer, error)
                    await end_told(owned, answer, failed=error is not None, is_left=is_left)
            finally:
                self._owned.pop(key, None)
                del self._running[key]
                if not is_kept:
                    answer.stop_keeping()
                else:
                    self._ended_s[key] = self._now_s()
                    self._drop_too_many(key[0])

    def _is_left(self, owned: OwnedAnswer, answer: KeptAnswer, error: BaseException | None) -> bool:
        """Another one may make it: this process ends, or could not go on with it now."""
        if owned.record is not None and owned.record.may_try_elsewhere(error):
            return not answer.has_more
        return self._closing and isinstance(error, asyncio.CancelledError)

    def _abandoned(self, key: _Key) -> None:
        asyncio.get_running_loop().call_later(RETURN_WITHIN_S, self._end_unread, key)

    def _end_unread(self, key: _Key) -> None:
        answer, task, owned = self._answers.get(key), self._running.get(key), self._owned.get(key)
        if answer is None or task is None or answer.readers or answer.ended:
            return
        if owned is None:
            self._end(key, task)
            return
        looking = asyncio.create_task(self._end_unfollowed(key, answer, owned, task))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)

    async def _end_unfollowed(
        self, key: _Key, answer: KeptAnswer, owned: OwnedAnswer, task: asyncio.Task[None]
    ) -> None:
        """Somebody may read it at another replica."""
        if await owned.is_followed():
            self._abandoned(key)
        elif not answer.readers and not answer.ended and self._running.get(key) is task:
            self._end(key, task)

    def _end(self, key: _Key, task: asyncio.Task[None]) -> None:
        """Nobody joins it any more: who comes meanwhile waits until it has ended, and runs anew."""
        self._answers.pop(key, None)
        task.cancel()

    def _drop_old(self) -> None:
        while self._ended_s:
            key, ended_s = next(iter(self._ended_s.items()))
            if self._now_s() - ended_s < KEPT_S:
                return
            self._drop(key)

    def count(self, tenant: str, more_bytes: int) -> None:
        """Of answers that are made, kept, or read after that."""
        for of in (tenant, _ALL):
            self._bytes_of[of] += more_bytes
            if not self._bytes_of[of]:
                del self._bytes_of[of]

    def has_room(self, tenant: str) -> bool:
        if self._is_full(tenant):
            self._make_room(tenant)
        return not self._is_full(tenant)

    def _is_full(self, tenant: str) -> bool:
        return self._bytes_of[tenant] > MOST_BYTES_OF_TENANT or self._bytes_of[_ALL] > MOST_BYTES

    def _make_room(self, tenant: str) -> None:
        """The oldest of the tenant go first, then the oldest of all. What is not kept goes when it is read."""
        kept = [key for key in self._ended_s if self._answers[key].is_kept]
        for of, most in ((tenant, MOST_BYTES_OF_TENANT), (_ALL, MOST_BYTES)):
            for key in kept:
                if self._bytes_of[of] <= most:
                    break
                if of in (key[0], _ALL) and key in self._ended_s:
                    self._drop(key)

    def _drop_too_many(self, tenant: str) -> None:
        own = [key for key in self._ended_s if key[0] == tenant]
        for key in own[: max(0, len(own) - MOST_ANSWERS_OF_TENANT)]:
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        del self._ended_s[key]
        self._answers.pop(key).stop_keeping()

    async def close(self) -> None:
        self._closing = True
        running = list(self._running.values())
        for key, task in self._running.items():
            owned = self._owned.get(key)
            if owned is not None:
                owned.will_be_left()
                if owned.is_finishing:
                    continue  # cut now, nobody would know whether it was told, and who bills it
            task.cancel()
        if running:
            await asyncio.wait(running)


@dataclass(frozen=True, slots=True)
class _Named:
    key: _Key
    fingerprint: bytes
    request: GatewayRequest
    run: Run


class _Room:
    """Implements `kept_answer.Room`, for one tenant."""

    def __init__(self, once: AnswersOnce, tenant: str) -> None:
        self._once = once
        self._tenant = tenant

    def count(self, more_bytes: int) -> None:
        self._once.count(self._tenant, more_bytes)

    def is_left(self) -> bool:
        return self._once.has_room(self._tenant)


def _bill_nothing(request: GatewayRequest) -> None:
    """Somebody else makes all of it, and is billed for all of it."""
    count_unbilled(request.usage)
    count_anew(request)


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
    said = {} if request.routed is None else request.routed.said
    headers = {name: value for name, value in request.context.headers.items() if name in _MEANT_HEADERS}
    digest = hashlib.sha256(msgspec.json.encode((request.place.target, meant, said, headers), order="sorted"))
    digest.update(b"\n")
    digest.update(request.context.body)
    return digest.digest()
