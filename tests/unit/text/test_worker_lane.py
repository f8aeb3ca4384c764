"""Who gets a worker, in what order, and who is turned away: the lane with workers of the test."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.templates import worker_lane
from pilotlight_text.templates.worker_connection import WorkerConnection
from pilotlight_text.templates.worker_lane import Lane

pytestmark = pytest.mark.looptime


class Worker:
    ended = False

    async def close(self) -> None:
        self.ended = True


class Starting:
    def __init__(self) -> None:
        self.started: list[Worker] = []
        self.error: OSError | None = None

    async def __call__(self) -> WorkerConnection:
        if self.error is not None:
            raise self.error
        self.started.append(Worker())
        return cast(WorkerConnection, self.started[-1])


async def acquired(lane: Lane, *keys: str) -> list[asyncio.Task[WorkerConnection]]:
    tasks = [asyncio.create_task(lane.acquire(key)) for key in keys]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def served(tasks: list[asyncio.Task[Any]]) -> list[bool]:
    return [task.done() for task in tasks]


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_key_leaves_a_worker_to_others() -> None:
    lane = Lane(Starting(), 2)
    tasks = await acquired(lane, "loops", "loops", "good")
    assert served(tasks) == [True, False, True]
    await ended(tasks)


async def test_keys_take_turns() -> None:
    lane = Lane(Starting(), 1)
    tasks = await acquired(lane, "a", "a", "a", "b")
    order = []
    for _ in range(4):
        (place,) = [i for i, task in enumerate(tasks) if task.done() and i not in order]
        order.append(place)
        lane.give_back(tasks[place].result(), "aaab"[place])
        for _ in range(5):
            await asyncio.sleep(0)
    assert order == [0, 3, 1, 2]


async def test_a_worker_that_ended_is_replaced_before_anybody_asks() -> None:
    starting = Starting()
    lane = Lane(starting, 1)
    (task,) = await acquired(lane, "a")
    starting.started[0].ended = True
    lane.give_back(task.result(), "a")
    await asyncio.sleep(0.01)
    assert len(starting.started) == 2
    starting.started[1].ended = True  # while nobody has it
    (task,) = await acquired(lane, "a")
    assert task.result() is cast(Any, starting.started[2])


async def test_who_goes_while_waiting_takes_no_place() -> None:
    lane = Lane(Starting(), 1)
    first, second, third = await acquired(lane, "a", "b", "c")
    second.cancel()
    lane.give_back(first.result(), "a")
    assert await third
    await ended([second])


async def test_a_place_given_to_who_has_gone_is_given_on() -> None:
    lane = Lane(Starting(), 1)
    first, second, third = await acquired(lane, "a", "b", "c")
    lane.give_back(first.result(), "a")
    second.cancel()
    assert await third
    await ended([second])


async def test_waiting_is_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_lane, "MAX_WAITING_OF_KEY", 2)
    lane = Lane(Starting(), 1)
    tasks = await acquired(lane, "a")
    tasks += await acquired(lane, "a", "a")
    with pytest.raises(Unavailable, match="too many"):
        await lane.acquire("a")
    monkeypatch.setattr(worker_lane, "WAIT_S", 0.0)
    with pytest.raises(Unavailable, match="no worker was free"):
        await lane.acquire("b")
    monkeypatch.undo()
    await ended(tasks)


async def test_no_process_is_a_refusal_and_not_the_end() -> None:
    starting = Starting()
    starting.error = OSError(12, "Cannot allocate memory")
    lane = Lane(starting, 1)
    with pytest.raises(Unavailable, match="Cannot allocate memory"):
        await lane.acquire("a")
    starting.error = None
    assert await lane.acquire("a")


async def test_closing_ends_workers_and_who_waits() -> None:
    starting = Starting()
    lane = Lane(starting, 1)
    tasks = await acquired(lane, "a", "b")
    await lane.close()
    assert starting.started[0].ended
    with pytest.raises(Unavailable, match="shutting down"):
        await tasks[1]
    with pytest.raises(Unavailable):
        await lane.acquire("c")
