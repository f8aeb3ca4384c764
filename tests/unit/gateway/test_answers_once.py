"""One execution for each id: joined, given again, resumed, refused, ended when nobody comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.idempotency import answers_once, kept_answer
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, Routed
from pilotlight_protocol.errors import Conflict, InvalidInput, TooManyRequests, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

EVENTS = [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b"data: ", b"4\n\n"]
NUMBERED = [b"id: 1\ndata: 1\n\n", b"id: 2\ndata: 2\n\n", b"id: 3\ndata: 3\n\n", b"id: 4\ndata: 4\n\n"]


class World:
    def __init__(self) -> None:
        self.once = AnswersOnce(lambda: asyncio.get_running_loop().time())
        self.runs = 0
        self.closed = 0
        self.events: list[bytes | Exception] = list(EVENTS)
        self.pause_s = self.closing_s = 0.0
        self.reply: Reply | None = None

    async def ask(
        self,
        tenant: str = "team",
        body: bytes = b"{}",
        method: str = "POST",
        said: dict[str, str] | None = None,
        **headers: Any,
    ) -> Any:
        """`said`: to a route, None where there is none."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        context = RequestContext("r", named, body)
        request = GatewayRequest(
            context, Place(method, "/x", "/x", "/x", "/x", None), Asked(), Caller(tenant), entry("chat"), "chat"
        )
        if said is not None:
            request.routed = Routed("chat", "", (), request.place, said=said)

        async def run() -> Reply | Stream:
            self.runs += 1
            context.response_headers["x-run"] = str(self.runs)
            await asyncio.sleep(self.pause_s)
            return self.reply if self.reply is not None else Stream(self._events())

        result = await self.once.answer(request, run)
        assert context.response_headers["x-run"]
        return result

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            for event in self.events:
                await asyncio.sleep(self.pause_s)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1
            await asyncio.sleep(self.closing_s)


@pytest.fixture
def world() -> World:
    return World()


async def read(result: Any, most: int = 99) -> list[bytes]:
    pieces = []
    try:
        async for piece in result.events:
            pieces.append(piece)
            if len(pieces) == most:
                break
    finally:
        await result.events.aclose()
    return pieces


@pytest.mark.looptime
@pytest.mark.parametrize("header", ["x_request_id", "idempotency_key"])
async def test_a_second_one_joins_and_a_third_gets_it_again(world: World, header: str) -> None:
    world.pause_s = 1.0
    named: Any = {header: "a"}
    both = await asyncio.gather(*(asyncio.create_task(self_read(world, **named)) for _ in range(2)))
    assert both == [NUMBERED, NUMBERED]
    assert await read(await world.ask(**named)) == NUMBERED
    assert (world.runs, world.closed) == (1, 1)


MEANINGS: list[tuple[dict[str, str], dict[str, str] | None]] = [
    ({}, None),
    ({}, {}),
    ({"x-model-version": "1"}, None),
    ({"x-model-version": "2"}, None),
    ({"inference-header-content-length": "2"}, None),
    ({"inference-header-content-length": "1"}, None),
    ({"x-tier": "gold"}, {"x-tier": "gold"}),
    ({"x-tier": "tin"}, {"x-tier": "tin"}),
    ({}, {"": "1"}),
    ({}, {"": "2"}),
]


@pytest.mark.parametrize("first", MEANINGS)
@pytest.mark.parametrize("second", MEANINGS)
async def test_what_changes_the_meaning_is_of_the_request(world: World, first: Any, second: Any) -> None:
    """Never another version's answer with 200."""
    world.reply = Reply(b"{}")
    asked = [
        world.ask(x_request_id="a", said=said, x_other=str(at), **headers)
        for at, (headers, said) in enumerate((first, second))
    ]
    await asked[0]
    if first == second:
        await asked[1]
    else:
        with pytest.raises(Conflict):
            await asked[1]
    assert world.runs == 1


async def self_read(world: World, **headers: Any) -> list[bytes]:
    return await read(await world.ask(**headers))


async def test_what_no_client_named_is_run_as_it_is(world: World) -> None:
    assert await read(await world.ask()) == EVENTS
    assert await read(await world.ask()) == EVENTS
    await world.ask(method="GET", x_request_id="a")
    assert world.runs == 3


async def test_another_body_is_a_conflict_and_another_tenants_id_is_not(world: World) -> None:
    await read(await world.ask(x_request_id="a"))
    with pytest.raises(Conflict):
        await world.ask(x_request_id="a", body=b"other")
    await read(await world.ask(tenant="other", x_request_id="a", body=b"other"))
    assert world.runs == 2


@pytest.mark.looptime
@pytest.mark.parametrize("seen", range(5))
async def test_the_rest_is_given_to_who_comes_back(world: World, seen: int) -> None:
    world.pause_s = 1.0
    first = await world.ask(x_request_id="a")
    assert await read(first, most=seen) == NUMBERED[:seen] if seen else await first.events.aclose() is None
    assert await read(await world.ask(x_request_id="a", last_event_id=str(seen))) == NUMBERED[seen:]
    assert world.runs == 1


@pytest.mark.looptime
async def test_who_does_not_come_back_ends_the_work(world: World) -> None:
    world.pause_s = 1.0
    world.events = [b"data: x\n\n"] * 100
    await read(await world.ask(x_request_id="a"), most=1)
    await asyncio.sleep(answers_once.RETURN_WITHIN_S - 1.5)
    assert world.closed == 0
    await asyncio.sleep(3)
    assert world.closed == 1
    await read(await world.ask(x_request_id="a"), most=1)
    assert world.runs == 2
    await world.once.close()
    assert world.closed == 2


@pytest.mark.looptime
async def test_who_leaves_before_the_answer_begins_ends_it_too(world: World) -> None:
    world.pause_s = 60.0
    task = asyncio.create_task(world.ask(x_request_id="a"))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(answers_once.RETURN_WITHIN_S + 1)
    assert not world.once._running
    assert not world.once._answers


@pytest.mark.looptime
async def test_who_comes_back_while_it_is_ended_is_answered_anew(world: World) -> None:
    world.pause_s, world.closing_s = 1.0, 3.0
    world.events = [b"data: x\n\n"] * 20
    await read(await world.ask(x_request_id="a"), most=1)
    await asyncio.sleep(answers_once.RETURN_WITHIN_S + 1)
    assert (world.closed, len(world.once._running)) == (1, 1)
    joined = await asyncio.gather(*(asyncio.create_task(self_read(world, x_request_id="a")) for _ in range(3)))
    assert [len(each) for each in joined] == [20] * 3
    assert world.runs == 2


async def test_a_failure_is_told_to_all_and_tried_again_by_the_next(world: World) -> None:
    world.events = [EVENTS[0], Unavailable("gone")]
    result = await world.ask(x_request_id="a")
    with pytest.raises(Unavailable):
        await read(result)
    world.events = list(EVENTS)
    assert await read(await world.ask(x_request_id="a")) == NUMBERED
    assert world.runs == 2


async def test_the_rest_of_what_is_not_kept_is_refused_and_nothing_runs(world: World) -> None:
    """The events of another run under the same numbers would be a wrong answer."""
    with pytest.raises(Conflict, match="not kept any more"):
        await world.ask(x_request_id="a", last_event_id="2")
    assert world.runs == 0


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_that_came_as_an_answer_is_not_kept(world: World, status: int) -> None:
    world.reply = Reply(b"{}", status)
    for run in (1, 2):
        assert (await world.ask(x_request_id="a")).status == status
        await asyncio.sleep(0)
        assert world.runs == run


async def test_events_with_the_other_line_ends_are_numbered_as_they_come(world: World) -> None:
    world.events = [b"data: 1\r\n\r\ndata: 2\r\n\r\n"]
    assert await read(await world.ask(x_request_id="a")) == NUMBERED[:2]


async def test_ids_that_differ_far_behind_are_two(world: World) -> None:
    for end in "ab":
        await read(await world.ask(x_request_id="x" * 300 + end))
    assert world.runs == 2


@pytest.mark.looptime
async def test_too_many_at_once_are_refused_and_never_run_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_once, "MOST_RUNNING_OF_TENANT", 2)
    world.pause_s = 60.0
    tasks = [asyncio.create_task(world.ask(x_request_id=name)) for name in "ab"]
    await asyncio.sleep(1)
    with pytest.raises(TooManyRequests):
        await world.ask(x_request_id="c")
    assert world.runs == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await world.once.close()


@pytest.mark.looptime
async def test_a_whole_answer_is_given_again_until_it_is_old(world: World) -> None:
    world.reply = Reply(b"{}", 201, headers={"a": "b"})
    for _ in range(2):
        again = await world.ask(x_request_id="a")
        assert (again.body, again.status, again.headers) == (b"{}", 201, {"a": "b"})
    assert world.runs == 1
    await asyncio.sleep(answers_once.KEPT_S)
    await world.ask(x_request_id="a")
    assert world.runs == 2


async def test_what_is_kept_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_once, "MOST_BYTES_OF_TENANT", 100)
    monkeypatch.setattr(answers_once, "MOST_BYTES", 150)
    monkeypatch.setattr(answers_once, "MOST_ANSWERS_OF_TENANT", 8)
    world.reply = Reply(b"x" * 40)
    for tenant in ("team", "other"):
        for number in range(4):
            await world.ask(tenant=tenant, x_request_id=str(number))
            await asyncio.sleep(0)
    kept = [key[0] for key in world.once._answers]
    assert kept == ["team", "other", "other"]
    world.reply = Reply(b"")
    for number in range(20):
        await world.ask(tenant="third", x_request_id=str(number))
        await asyncio.sleep(0)
    assert sum(key[0] == "third" for key in world.once._answers) == 8


@pytest.mark.parametrize(
    ("where", "bound"),
    [
        (kept_answer, "LONGEST_ANSWER_BYTES"),
        (answers_once, "MOST_BYTES_OF_TENANT"),
        (answers_once, "MOST_BYTES"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
async def test_what_is_not_kept_is_given_to_its_readers_and_told_to_who_comes_later(
    world: World, monkeypatch: pytest.MonkeyPatch, where: Any, bound: str, whole: bool
) -> None:
    monkeypatch.setattr(where, bound, 40)
    world.events = [b"data: %d\n\n" % number for number in range(1, 30)]
    world.reply = Reply(b"x" * 41) if whole else None
    first, second = await asyncio.gather(*(world.ask(x_request_id="a") for _ in range(2)))
    if whole:
        assert first.body == second.body == b"x" * 41
    else:
        both = await asyncio.gather(read(first), read(second))
        assert both[0] == both[1] == [b"id: %d\ndata: %d\n\n" % (number, number) for number in range(1, 30)]
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="too great a length"):
        await world.ask(x_request_id="a")
    assert (world.runs, world.once._bytes_of.total()) == (1, 0)


@pytest.mark.looptime
async def test_who_lost_its_connection_gets_on_where_it_was_as_long_as_that_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_answer, "LONGEST_ANSWER_BYTES", 40)
    world.events = [b"data: %d\n\n" % number for number in range(1, 9)]
    world.pause_s = 1.0
    slow, quick = await asyncio.gather(*(world.ask(x_request_id="a") for _ in range(2)))
    for _ in range(4):
        await asyncio.gather(anext(quick.events), anext(slow.events))
    await quick.events.aclose()
    with pytest.raises(Conflict):
        await world.ask(x_request_id="a", last_event_id="1")
    again = await world.ask(x_request_id="a", last_event_id="4")
    rest = await asyncio.gather(read(again), read(slow))
    assert rest[0] == rest[1] == [b"id: %d\ndata: %d\n\n" % (number, number) for number in range(5, 9)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 12)), min_size=1, max_size=12),
)
@settings(max_examples=30)
def test_running_answers_never_hold_more_than_the_bounds(asked: list[tuple[str, int, int]]) -> None:
    """Whatever their readers do: an event of each may be on its way beside that."""

    async def run(world: World, tenant: str, number: int, size: int, most: int) -> None:
        world.events = [b"data: %b\n\n" % (b"x" * size)] * 10
        result = await world.ask(tenant=tenant, x_request_id=str(number))
        try:
            for _ in range(most):
                await asyncio.sleep(0)
                await anext(result.events, None)
            await asyncio.sleep(0)
            check(world)
        finally:
            await result.events.aclose()

    def check(world: World) -> None:
        for tenant, most in (("a", 200), ("b", 200), ("", 300)):
            on_their_way = sum(tenant in ("", each) for each, _, _ in asked) * 80
            assert 0 <= world.once._bytes_of[tenant] <= most + on_their_way

    async def run_all() -> None:
        world = World()
        await asyncio.gather(*(run(world, tenant, at, size, most) for at, (tenant, size, most) in enumerate(asked)))
        await world.once.close()
        kept = sum(answer.size_bytes for answer in world.once._answers.values())
        assert world.once._bytes_of.total() == 2 * kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers_once, "MOST_BYTES_OF_TENANT", 200)
        patch.setattr(answers_once, "MOST_BYTES", 300)
        asyncio.run(run_all())


@pytest.mark.parametrize("given", ["x", "-1", "1.", "1.x", ".5", "9" * 10])
async def test_a_position_that_is_none_is_refused(world: World, given: str) -> None:
    await read(await world.ask(x_request_id="a"))
    with pytest.raises(InvalidInput):
        await world.ask(x_request_id="a", last_event_id=given)
    await world.once.close()
