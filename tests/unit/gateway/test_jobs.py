"""Jobs without a gateway: whose turn it is, what is preferred, and what is kept."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until_async

from pilotlight_gateway.jobs.job_answer import EVENT_STREAM, JobAnswer, events_of, position_in
from pilotlight_gateway.jobs.job_queue import JobQueue
from pilotlight_gateway.jobs.job_records import Job
from pilotlight_gateway.jobs.job_runner import JobRunner
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.jobs.prefer import LaterAnswer, later_answer
from pilotlight_gateway.jobs.sqlite_jobs import FILE_NAME, SqliteJobs
from pilotlight_gateway.jobs.stored_request import StoredRequest, kept_headers
from pilotlight_gateway.request_steps import Caller, Place
from pilotlight_gateway.routing.choosing import choose
from pilotlight_gateway.routing.request_facts import RequestFacts
from pilotlight_gateway.routing.route_spec import CanarySpec, HeaderMatch, RouteSpec, RuleSpec, headers_of_rules
from pilotlight_protocol.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    PayloadTooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from pilotlight_wire.handlers import Reply, RequestContext, Stream

REQUEST = StoredRequest(Place("POST", "/v1/x", "/v1/x", "/v1/x", "/v1/x", None), {}, b"the body")


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        ("respond-async", LaterAnswer()),
        ("Respond-Async, wait=10", LaterAnswer(10)),
        ('wait="5" , respond-async; foo', LaterAnswer(5)),
        ("respond-async, wait=100000", LaterAnswer(60)),
        ("respond-async, wait=-1", LaterAnswer()),
        ("respond-async, wait=nan", LaterAnswer()),
        ("respond-async, wait=1, wait=9", LaterAnswer(1)),
        ("wait=10", None),
        ("return=minimal", None),
        ("", None),
    ],
)
def test_what_a_client_prefers(prefer: str, wanted: LaterAnswer | None) -> None:
    assert later_answer(prefer) == wanted


def test_only_headers_that_are_no_secret_are_kept() -> None:
    headers = {"authorization": "Bearer x", "x-api-key": "x", "cookie": "x", "x-my-token": "x", "accept": "y"}
    assert kept_headers(headers) == {"accept": "y"}
    assert kept_headers(headers, {"x-my-token", "cookie", "authorization", "x-api-key"}) == {
        "accept": "y",
        "x-my-token": "x",
    }


NAMES = st.sampled_from(["x-region", "x-tier", "x-session-id", "x-other"])


@settings(max_examples=100)
@given(st.lists(NAMES, max_size=3), st.dictionaries(NAMES, st.sampled_from(["eu", "us"])), st.integers(0, 100))
def test_a_job_runs_where_the_request_would_have_run(named: list[str], headers: dict[str, str], percent: int) -> None:
    rules = tuple(
        RuleSpec((f"rule/{number}",), headers=(HeaderMatch(name, ("eu",)),)) for number, name in enumerate(named)
    )
    route = RouteSpec("chat", ("us/m",), rules=rules, canary=CanarySpec(("new/m",), percent=percent))

    def chosen(headers: dict[str, str]) -> object:
        return choose(route, RequestFacts("t", headers, b"{}", fallback_identity="k"), percent)

    assert chosen(kept_headers(headers, headers_of_rules([route]))) == chosen(headers)


@settings(max_examples=60)
@given(st.lists(st.sampled_from("aaaaaab"), max_size=40), st.integers(1, 5), st.integers(1, 3))
def test_who_runs_fewest_comes_next_and_bounds_hold(tenants: list[str], running: int, of_tenant: int) -> None:
    limits, queue = JobSettings(running=running, running_of_tenant=of_tenant), JobQueue()
    for number, tenant in enumerate(tenants):
        queue.put(tenant, f"{number}")
    order: dict[str, list[int]] = {"a": [], "b": []}
    runs: list[str] = []
    while True:
        while (found := queue.next(limits, 0.0)) is not None:
            tenant, job = found
            waits = {name for name in "ab" if len(order[name]) < tenants.count(name)}
            free = [runs.count(name) for name in waits if runs.count(name) < of_tenant]
            assert runs.count(tenant) == min(free)
            runs.append(tenant)
            order[tenant].append(int(job))
            assert len(runs) <= running
        if not runs:
            break
        queue.left(runs.pop(0))
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert sum(map(len, order.values())) == len(tenants)


def test_what_is_put_back_waits_and_what_is_removed_never_comes() -> None:
    queue = JobQueue()
    queue.put("a", "1", 10.0)
    queue.put("a", "2", 5.0)
    queue.put("b", "3")
    queue.remove("b", "3")
    assert queue.next(JobSettings(), 4.0) is None
    assert queue.next_at_s() == 5.0
    assert queue.next(JobSettings(), 5.0) == ("a", "2")
    queue.remove("a", "1")
    assert queue.next(JobSettings(), 11.0) is None


async def test_events_are_numbered_by_their_attempt() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"data: 1\n\nda", b"ta: 2\r\n\r\n", b"data: 3\n\n"):
            yield piece

    answer = JobAnswer(2)
    await answer.take(Stream(pieces()))
    answer.end()
    assert events_of(answer.body) == [b"id: 2.%d\ndata: %d\n\n" % (number, number) for number in (1, 2, 3)]
    assert position_in("2.2", 2) == 2
    with pytest.raises(Conflict):
        position_in("1.2", 2)
    with pytest.raises(InvalidInput):
        position_in("2", 2)


async def test_an_event_without_an_end_is_kept_no_longer_than_a_result() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    with pytest.raises(PayloadTooLarge):
        await JobAnswer(1).take(Stream(pieces(), EVENT_STREAM))


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def whole(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


class World:
    """A runner over a real file, whose requests the test answers."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.path = folder / FILE_NAME
        self.settings = JobSettings(**settings)
        self.now_s = 1000.0
        self.store = SqliteJobs(self.path)
        self.asked: list[RequestContext] = []
        self.answers: Callable[[RequestContext], Reply] = lambda context: Reply(b"{}")
        self.opened = asyncio.Event()
        self.opened.set()
        self.runner = JobRunner(self.store, self.run, self.caller, lambda: self.settings, wall_s=lambda: self.now_s)

    def caller(self, tenant: str, key_id: str) -> Caller:
        if not key_id:
            raise Unauthorized("no such key")
        return Caller(tenant, key_id)

    async def run(self, caller: Caller, request: StoredRequest, context: RequestContext) -> Reply | Stream:
        assert request == REQUEST
        self.asked.append(context)
        await self.opened.wait()
        return self.answers(context)

    def job(self, job_id: str, tenant: str = "team") -> Job:
        return Job(job_id, tenant, "key", "/v1/x", "m", self.now_s, self.now_s + 100)

    async def ended(self, job_id: str) -> Job:
        found = await until_async(lambda: self.store.job(job_id), holds=lambda job: job is not None and job.ended)
        assert found is not None
        return found


async def test_a_job_runs_once_and_its_body_is_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.runner.start()
    await world.runner.add(world.job("one"), REQUEST)
    assert (await world.ended("one")).state == "succeeded"
    assert (world.store.result("one"), world.store.request("one")) == (b"{}", None)
    assert modes(tmp_path) == {0o600}
    await world.runner.close()
    assert len(world.asked) == 1
    assert b"the body" not in whole(tmp_path)


async def test_what_was_running_runs_again_and_not_for_ever(tmp_path: Path) -> None:
    for attempt in range(1, 4):
        world = World(tmp_path, attempts=3)
        world.opened.clear()
        if attempt == 1:
            await world.runner.add(world.job("one"), REQUEST)
        world.runner.start()
        await until_async(lambda: len(world.asked))  # noqa: B023 - called at once
        assert world.asked[0].request_id == f"one-{attempt}"
        await world.runner.close()
    world = World(tmp_path, attempts=3)
    world.runner.start()
    job = await world.ended("one")
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.status == 503
    await world.runner.close()


async def test_two_gateways_of_one_folder_run_a_job_once(tmp_path: Path) -> None:
    first, second = World(tmp_path), World(tmp_path)
    first.runner.start()
    await until_async(first.store.own)
    second.runner.start()
    await second.runner.add(second.job("one"), REQUEST)
    first.now_s += 11  # it looks through what others added
    await first.runner.add(first.job("two"), REQUEST)
    assert (await first.ended("one")).state == (await first.ended("two")).state == "succeeded"
    assert (len(first.asked), len(second.asked)) == (2, 0)
    await second.runner.close()
    await first.runner.close()


async def test_a_job_whose_time_is_over_fails_and_results_are_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.runner.add(world.job("late"), REQUEST)
    world.now_s += 101
    world.runner.start()
    job = await world.ended("late")
    assert job.error is not None
    assert (job.state, job.error.status) == ("failed", 504)
    world.store.delete_expired(world.now_s + world.settings.result_s)
    assert world.store.job("late") is None
    await world.runner.close()
    assert not world.asked


@pytest.mark.parametrize(
    "kept",
    [
        msgspec.msgpack.encode({"method": "POST", "target": "/v1/x", "headers": {}, "body": b"the body"}),
        msgspec.msgpack.encode(REQUEST)[:-1],
        b"",
    ],
)
async def test_a_request_that_another_version_kept_fails_at_once_and_says_so(tmp_path: Path, kept: bytes) -> None:
    world = World(tmp_path, attempts=3)
    await world.runner.add(world.job("old"), REQUEST)
    with sqlite3.connect(world.path) as connection:
        connection.execute("UPDATE jobs SET request = ?", (kept,))
    connection.close()
    world.runner.start()
    job = await world.ended("old")
    assert job.error is not None
    assert (job.state, job.attempts, job.error.status, job.response_status) == ("failed", 1, 500, None)
    assert "another version" in job.error.message
    assert "send it again" in job.error.message
    await world.runner.add(world.job("new"), REQUEST)
    assert (await world.ended("new")).state == "succeeded"
    await world.runner.close()


async def test_what_found_no_room_was_no_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)

    def refuses(context: RequestContext) -> Reply:
        raise Unavailable("full", retry_after_s=7)

    world.answers = refuses
    world.runner.start()
    await world.runner.add(world.job("one"), REQUEST)

    def put_back() -> bool:
        job = world.store.job("one")
        return bool(world.asked) and job is not None and job.state == "queued"

    await until_async(put_back)
    world.answers = lambda context: Reply(b"{}")
    for number in range(10):  # the wait may begin a moment after the job is put back
        world.now_s += 8
        await world.runner.add(world.job(f"next-{number}"), REQUEST)
        await world.ended(f"next-{number}")
        if (job := world.store.job("one")) is not None and job.ended:
            break
    assert (await world.ended("one")).attempts == 1
    await world.runner.close()


@pytest.mark.parametrize("bounds", [{"kept_of_tenant": 2}, {"bytes_of_tenant": 2800}])
async def test_a_tenant_keeps_no_more_than_its_part(tmp_path: Path, bounds: dict[str, int]) -> None:
    world = World(tmp_path, **bounds)
    for name in ("one", "two"):
        await world.runner.add(world.job(name), REQUEST)
    with pytest.raises(TooManyRequests):
        await world.runner.add(world.job("three"), REQUEST)
    await world.runner.add(world.job("theirs", "other"), REQUEST)
    world.store.delete("one")
    await world.runner.add(world.job("three"), REQUEST)
    await world.runner.close()


async def test_who_would_not_be_known_again_is_told_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(Forbidden, match="API key"):
        await world.runner.add(msgspec.structs.replace(world.job("one"), key_id=""), REQUEST)
    assert world.store.not_ended() == []
    await world.runner.close()
