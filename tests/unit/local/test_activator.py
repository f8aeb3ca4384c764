"""The activator in virtual time: order, bounds, deadlines, failure, and that nothing is ever counted twice."""

import asyncio
import random

import pytest

from pilotlight_local.activator.activator import Activator, Backend, RequestMeter, choose_pod
from pilotlight_local.errors import ActivationTimeout, QueueFull, RevisionFailed

pytestmark = pytest.mark.looptime


class Watched:
    """An activator whose pokes are counted."""

    def __init__(self, container_concurrency: int = 0, queue_depth: int = 10) -> None:
        self.pokes = 0
        self.activator = Activator("demo-00001", container_concurrency, random.Random(1), self._poke, queue_depth)

    def _poke(self) -> None:
        self.pokes += 1

    @property
    def concurrency(self) -> int:
        return self.activator.meter.concurrency


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_request_waits_for_the_first_pod_and_pokes() -> None:
    watched = Watched()
    waiting = asyncio.create_task(watched.activator.acquire(300.0))
    await settle()
    assert (watched.pokes, watched.concurrency, watched.activator.queued) == (1, 1, 1)
    backend = Backend("pod-1", 1)
    watched.activator.set_ready([backend])
    assert await waiting is backend
    assert (backend.in_flight, watched.activator.queued, watched.activator.running) == (1, 0, 1)
    watched.activator.release(backend)
    assert (backend.in_flight, watched.concurrency) == (0, 0)


async def test_container_concurrency_is_kept_and_served_in_order() -> None:
    watched = Watched(container_concurrency=1)
    backend = Backend("pod-1", 1)
    watched.activator.set_ready([backend])
    served: list[int] = []

    async def request(number: int) -> None:
        taken = await watched.activator.acquire(300.0)
        served.append(number)
        assert taken.in_flight == 1
        await asyncio.sleep(1.0)
        watched.activator.release(taken)

    await asyncio.gather(*(request(number) for number in range(5)))
    assert served == [0, 1, 2, 3, 4]
    assert asyncio.get_running_loop().time() == 5.0
    assert watched.concurrency == 0


async def test_buffered_time_counts_against_the_deadline() -> None:
    watched = Watched()
    with pytest.raises(ActivationTimeout):
        await watched.activator.acquire(2.5)
    assert asyncio.get_running_loop().time() == 2.5
    assert (watched.concurrency, watched.activator.queued) == (0, 0)


async def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    watched = Watched(queue_depth=2)
    held = [asyncio.create_task(watched.activator.acquire(300.0)) for _ in range(2)]
    await settle()
    with pytest.raises(QueueFull) as refused:
        await watched.activator.acquire(300.0)
    assert (refused.value.http_status, refused.value.retry_after_header) == (503, "1")
    assert watched.concurrency == 2
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    assert (watched.concurrency, watched.activator.queued) == (0, 0)


async def test_a_failed_revision_answers_everyone_who_waits() -> None:
    watched = Watched()
    held = [asyncio.create_task(watched.activator.acquire(300.0)) for _ in range(3)]
    await settle()
    watched.activator.refuse(
        10.0, lambda left_s: RevisionFailed("demo-00001", "exited with code 4", retry_after_s=left_s)
    )
    results = await asyncio.gather(*held, return_exceptions=True)
    assert [type(result) for result in results] == [RevisionFailed] * 3
    assert "exited with code 4" in str(results[0])
    assert watched.concurrency == 0


async def test_a_refusal_is_told_with_the_time_that_is_left_and_ends_by_itself() -> None:
    watched = Watched()
    watched.activator.refuse(10.0, lambda left_s: RevisionFailed("demo-00001", "boom", retry_after_s=left_s))
    await asyncio.sleep(4.0)
    with pytest.raises(RevisionFailed) as refused:
        await watched.activator.acquire(300.0)
    assert refused.value.retry_after_s == 6.0
    await asyncio.sleep(6.0)
    with pytest.raises(ActivationTimeout):
        await watched.activator.acquire(asyncio.get_running_loop().time() + 1)


async def test_a_pod_that_refused_a_connection_takes_nothing_and_what_waits_goes_elsewhere() -> None:
    watched = Watched(container_concurrency=1)
    broken, other = Backend("broken", 1), Backend("other", 2)
    watched.activator.set_ready([broken])
    first = await watched.activator.acquire(300.0)
    waiting = asyncio.create_task(watched.activator.acquire(300.0))
    await settle()
    watched.activator.suspect(first)
    watched.activator.release(first)
    await settle()
    assert not waiting.done()
    watched.activator.set_ready([other])
    assert await waiting is other


async def test_who_waits_in_vain_is_told_what_the_pod_says() -> None:
    watched = Watched()
    watched.activator.set_ready([], why_none="the engine is starting")
    with pytest.raises(ActivationTimeout, match="its pod says: the engine is starting"):
        await watched.activator.acquire(1.0)


async def test_a_client_that_leaves_in_the_moment_of_the_grant_gives_the_pod_back() -> None:
    watched = Watched(container_concurrency=1)
    leaver = asyncio.create_task(watched.activator.acquire(300.0))
    stayer = asyncio.create_task(watched.activator.acquire(300.0))
    await settle()
    backend = Backend("pod-1", 1)
    watched.activator.set_ready([backend])
    leaver.cancel()
    assert await stayer is backend
    assert (backend.in_flight, watched.concurrency, watched.activator.running) == (1, 1, 1)


async def test_a_pod_that_leaves_tells_its_connections_and_gets_nothing_new() -> None:
    watched = Watched()
    old, new = Backend("old", 1), Backend("new", 2)
    told: list[str] = []
    old.on_drain.add(lambda: told.append("old"))
    watched.activator.set_ready([old])
    running = await watched.activator.acquire(300.0)
    watched.activator.set_ready([new])
    assert told == ["old"]
    assert await watched.activator.acquire(300.0) is new
    idle = asyncio.create_task(old.wait_idle())
    await settle()
    assert not idle.done()
    watched.activator.release(running)
    await idle


@pytest.mark.parametrize(
    ("in_flight", "container_concurrency", "cursor", "expected"),
    [
        ([], 0, 0, None),
        ([9], 0, 0, 0),
        ([1, 1], 1, 0, None),
        ([1, 0, 0], 1, 2, 1),
        ([2, 3, 0], 3, 1, 0),
        ([0, 0, 0], 4, 2, 2),
        ([0, 4, 4], 4, 1, 0),
        ([4, 4, 4], 4, 1, None),
    ],
)
def test_balancing(in_flight: list[int], container_concurrency: int, cursor: int, expected: int | None) -> None:
    assert choose_pod(in_flight, container_concurrency, cursor, random.Random(1)) == expected


def test_without_a_limit_the_less_loaded_of_two_random_pods_is_taken() -> None:
    rng = random.Random(7)
    chosen = [choose_pod([0, 5, 9], 0, 0, rng) for _ in range(300)]
    assert 2 not in chosen
    assert 150 < chosen.count(0) < 250


def test_the_meter_weighs_concurrency_by_time() -> None:
    meter = RequestMeter(0)
    meter.arrived(0)
    meter.arrived(0.5)
    concurrency, requests = meter.report(1)
    assert concurrency == pytest.approx(1.5)
    assert requests == 2
    meter.finished(1.25)
    meter.finished(1.5)
    concurrency, requests = meter.report(2)
    assert concurrency == pytest.approx(0.75)
    assert requests == 0


def test_the_meter_keeps_requests_when_it_is_asked_twice_in_one_instant() -> None:
    meter = RequestMeter(0)
    meter.arrived(0)
    assert meter.report(0) == (1.0, 0.0)
    assert meter.report(1)[1] == 1
