"""What a gateway does with streams that others left, and with those that it leaves, beside a scripted Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from endpoint_entries import entry, whole

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.idempotency.redis_answers import Head
from pilotlight_gateway.idempotency.shared_answers import SharedAnswers
from pilotlight_gateway.idempotency.shared_scripts import APPEND, CLAIM, FOLLOWED, FORGET, LEAVE, READ, TAKE
from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.redis_calls import RedisAway, Script, ScriptCall
from pilotlight_gateway.request_steps import GatewayRequest, NoLimits, OpenDoor, Place, TokenUsage
from pilotlight_gateway.stream_record import Began, NobodyGoesOn, OpenReservation, Passed
from pilotlight_gateway.ways import ChosenWay
from pilotlight_protocol.answer_record import Seed
from pilotlight_protocol.errors import DeadlineExceeded, TooManyRequests, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.request_time import keep_time

pytestmark = pytest.mark.looptime
PATH = "/v1/chat/completions"
HEAD = Head("text/event-stream", {}, {})
ENTRY = entry("chat", timeout_s=30.0)
SEED = Seed(1, "5eed")
TOLD_TOKENS = 7
KEPT = [b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\n"]


class Scripted:
    """Implements RedisCalls. `answers`: of each script, or what makes them of a call."""

    there = True

    def __init__(self) -> None:
        self.answers: dict[Script, Any] = {CLAIM: b"mine", APPEND: 1, FOLLOWED: 0, FORGET: 1, LEAVE: 1}
        self.called: list[ScriptCall] = []
        self.takes_s = 0.0

    def on_return(self, returned: Callable[[], None]) -> None:
        return

    async def call(self, call: ScriptCall) -> Any:
        self.called.append(call)
        await asyncio.sleep(self.takes_s)
        answer = self.answers[call.script]
        if isinstance(answer, Exception):
            raise answer
        return answer(call) if callable(answer) else answer

    async def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        return [await self.call(each) for each in calls]

    def scripts(self) -> list[Script]:
        return [each.script for each in self.called]

    def told_began(self) -> list[Any]:
        """How an answer began, as APPEND was told."""
        return [each.arguments[7] for each in self.called if each.script is APPEND and each.arguments[7]]

    def is_begun_elsewhere(self, *, taken: int) -> None:
        """By one that died behind two events. `taken`: so often already, this time included."""
        reservation = OpenReservation("gone-1", 9)
        began = Began("short", ENTRY.namespace, ENTRY.name, ENTRY.spec_digest, "chat", SEED.header, "r0", reservation)
        head, passed = msgspec.json.encode(HEAD), msgspec.json.encode(Passed(2, 0))
        self.answers[CLAIM] = b"elsewhere"
        self.answers[READ] = lambda call: [
            b"broken" if call.arguments[1] == 2 else b"running",
            head,
            *KEPT[call.arguments[1] :],
        ]
        self.answers[TAKE] = [b"taken", head, msgspec.json.encode(began), passed, b"told", 2, b" 2" * taken]


class World:
    """A gateway. `recorded`: others can go on with what it makes."""

    def __init__(self) -> None:
        self.link = Scripted()
        self.once = AnswersOnce(shared=SharedAnswers(self.link, "local", "here"))
        self.gate = asyncio.Semaphore(0)
        self.recorded = True
        self.refuses: Exception | None = None
        self.billed: list[TokenUsage] = []
        self.table = EndpointTable()
        self.table.apply(whole(ENTRY))
        steps = Steps(OpenDoor(), self.table, self, self.once, self, {"short": self}, lambda entry: None)
        self.pipeline = Pipeline(steps)

    # Its limits, and their reservation

    headers: dict[str, str] = {}  # noqa: RUF012

    async def reserve(self, request: GatewayRequest) -> World:
        if request.record is not None:
            request.record.reservation = OpenReservation("here-1", 9)
        return self

    count = NoLimits.count

    async def commit(self, usage: TokenUsage) -> None:
        self.billed.append(usage)

    # Its way

    def choose(self, request: GatewayRequest) -> ChosenWay:
        return ChosenWay("short", "a test")

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        record = request.record
        if record is None:
            return Stream(self._events())
        if record.left_off is not None:
            usage_now().output_tokens += TOLD_TOKENS
        if self.refuses is not None:
            raise self.refuses
        record.make(request.begun_by("short", record), self)
        return Stream(self._events())

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            await self.gate.acquire()
            usage_now().output_tokens += 1
            yield b"data: x\n\n"

    async def close(self) -> None:
        return

    @property
    def position(self) -> Passed:
        return Passed(1, 1)

    def told_from(self, place: int) -> bytes | None:
        return b"told"[place:] if self.recorded else None

    def open(self, events: int) -> None:
        for _ in range(events):
            self.gate.release()

    async def ask(self, last: str | None = None, **headers: str) -> Any:
        named = {"x-request-id": "a", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if last is not None:
            named["last-event-id"] = last
        context = RequestContext("r1", named, b'{"model": "chat", "stream": true}')
        keep_time(context)
        return await self.pipeline.answer(Place("POST", PATH, PATH, PATH, PATH, None), context)


async def read(result: Any, most: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < most:
        got += [each for each in (await anext(result.events)).split(b"\n\n") if each]
    return got


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("there", [True, False])
async def test_who_leaves_a_stream_to_another_bills_nothing(world: World, recorded: bool, there: bool) -> None:
    """What nobody can go on with is billed by who made it."""
    world.recorded = recorded
    world.open(3)
    result = await world.ask()
    await read(result, 3)
    await asyncio.sleep(1)
    world.link.there = there
    await world.once.close()
    assert LEAVE in world.link.scripts()
    assert [each.output_tokens for each in world.billed] == ([] if recorded and there else [3])


@pytest.mark.parametrize("taken", [1, 3])
async def test_who_goes_on_tells_its_own_reservation_and_leaves_it_where_anybody_may_follow(
    world: World, taken: int
) -> None:
    world.link.is_begun_elsewhere(taken=taken)
    world.open(1)
    result = await world.ask()
    assert len(await read(result, 3)) == 3
    await asyncio.sleep(1)
    told = [msgspec.json.decode(began, type=Began) for began in world.link.told_began()]
    assert [each.reservation for each in told] == [OpenReservation("here-1", 9)]
    await world.once.close()
    assert len(world.billed) == (taken == 3)


async def test_whoever_has_the_beginning_waits_for_the_rest(world: World) -> None:
    """A client's own time is that of the beginning."""
    world.link.is_begun_elsewhere(taken=1)
    result = await world.ask(x_request_timeout="2")
    assert len(await read(result, 2)) == 2
    await asyncio.sleep(3)
    asyncio.get_running_loop().call_later(5, world.open, 1)
    assert len(await read(result, 1)) == 1
    await world.once.close()


@pytest.mark.parametrize(
    "error", [TooManyRequests("full"), Unavailable("full", retry_after_s=1), DeadlineExceeded("late")]
)
@pytest.mark.parametrize("taken", [1, 3])
async def test_who_cannot_go_on_now_leaves_it_to_the_next_and_bills_nothing(
    world: World, error: Exception, taken: int
) -> None:
    """The last one that may have it forgets it, and bills the beginning."""
    world.link.is_begun_elsewhere(taken=taken)
    world.refuses = error
    result = await world.ask()
    with pytest.raises(type(error)):
        await read(result, 3)
    await asyncio.sleep(1)
    left = taken == 1
    assert (LEAVE in world.link.scripts(), FORGET in world.link.scripts()) == (left, not left)
    assert [each.total for each in world.billed] == [0 if left else TOLD_TOKENS]


async def test_what_cannot_go_on_at_all_is_forgotten(world: World) -> None:
    world.link.is_begun_elsewhere(taken=1)
    world.refuses = Unavailable("a request with a seed cannot go on", retry_after_s=0)
    result = await world.ask()
    with pytest.raises(Unavailable):
        await read(result, 3)
    await asyncio.sleep(1)
    assert FORGET in world.link.scripts()


async def test_what_nobody_can_go_on_with_is_forgotten(world: World) -> None:
    world.link.is_begun_elsewhere(taken=1)
    world.table.apply(whole(entry("chat", spec_digest="another")))
    result = await world.ask()
    with pytest.raises(NobodyGoesOn):
        await read(result, 3)
    await asyncio.sleep(1)
    assert FORGET in world.link.scripts()
    assert not world.billed


async def test_who_leaves_while_its_id_is_claimed_keeps_it_from_nobody(world: World) -> None:
    world.link.takes_s = 0.2
    asked = asyncio.create_task(world.ask())
    await asyncio.sleep(0.1)
    asked.cancel()
    world.open(1)
    result = await world.ask()
    assert world.link.scripts()[:3] == [CLAIM, FORGET, CLAIM]
    assert len(await read(result, 1)) == 1
    await world.once.close()


async def test_a_claim_that_redis_did_not_answer_is_forgotten(world: World) -> None:
    world.link.answers[CLAIM] = RedisAway("late")
    world.open(1)
    result = await world.ask()
    assert len(await read(result, 1)) == 1
    assert world.link.scripts() == [CLAIM, FORGET]
    assert world.link.called[0].arguments[2] == world.link.called[1].arguments[1], "of the same owner"
    await world.once.close()
