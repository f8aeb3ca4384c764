"""Who waits for which download, how many run, and when one is ended. Downloads are threads that wait for the test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from waiting import until_async

from pilotlight_pool.agent.model_fetches import ModelFetches, Report
from pilotlight_protocol.errors import ModelNotFound, Unavailable
from pilotlight_store import Progress
from pilotlight_store.errors import DownloadCancelled

# The clock jumps while everybody waits; the threads only wait for the test.
pytestmark = pytest.mark.looptime

A, B, C = "hf://org/a", "hf://org/b", "hf://org/c"


class Source:
    """Downloads that last until `finish` or their `cancel`; `stuck` ones hear of neither."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.stuck: set[str] = set()
        self.progress: dict[str, Progress] = {}
        self._over: dict[str, threading.Event] = {}
        self._fails: dict[str, Exception] = {}

    def finish(self, uri: str, error: Exception | None = None) -> None:
        if error is not None:
            self._fails[uri] = error
        self._over.setdefault(uri, threading.Event()).set()

    def fetch(self, uri: str, cancel: threading.Event, report: Report) -> None:
        over = self._over.setdefault(uri, threading.Event())
        self.begun.append(uri)
        if uri in self.progress:
            report(self.progress[uri])
        while not over.wait(0.002) or uri in self.stuck:
            if cancel.is_set() and uri not in self.stuck:
                self.cancelled.append(uri)
                raise DownloadCancelled("ended")
        if uri in self._fails:
            raise self._fails[uri]


def ask(fetches: ModelFetches, uri: str) -> asyncio.Task[None]:
    return asyncio.create_task(fetches.fetch(uri))


def threads() -> int:
    return sum(thread.name == "model-fetch" and thread.is_alive() for thread in threading.enumerate())


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    source = Source()
    yield source
    source.stuck.clear()
    for uri in source.begun:
        source.finish(uri)
    await until_async(lambda: not threads())


async def test_all_who_want_a_model_wait_for_one_download_in_one_thread(source: Source) -> None:
    fetches = ModelFetches(source.fetch)
    asking = [ask(fetches, A) for _ in range(100)]
    await until_async(lambda: source.begun)
    assert threads() == 1
    source.finish(A)
    await asyncio.gather(*asking)
    assert source.begun == [A]


async def test_a_failure_is_told_to_everybody_and_not_remembered(source: Source) -> None:
    fetches = ModelFetches(source.fetch)
    asking = [ask(fetches, A) for _ in range(3)]
    source.finish(A, ModelNotFound("gone"))
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, ModelNotFound)
    with pytest.raises(ModelNotFound):
        await fetches.fetch(A)
    assert source.begun == [A, A]


async def test_no_more_run_than_may_and_the_next_begins_when_one_ends(source: Source) -> None:
    fetches = ModelFetches(source.fetch, at_once=1)
    asking = [ask(fetches, uri) for uri in (A, B, C)]
    await until_async(lambda: source.begun)
    assert threads() == 1
    for uri in (A, B, C):
        await until_async(partial(lambda next_one: source.begun[-1] == next_one, uri))
        source.finish(uri)
    await asyncio.gather(*asking)
    assert source.begun == [A, B, C]


async def test_too_many_are_told_when_the_first_place_is_free(source: Source) -> None:
    fetches = ModelFetches(source.fetch, at_once=1, most_waiting=1)
    source.progress[A] = Progress("downloading", 1, 10**6)
    asking = [ask(fetches, A), ask(fetches, B)]
    await until_async(lambda: source.begun)
    with pytest.raises(Unavailable, match="1 downloads run and 1 wait") as refused:
        await fetches.fetch(C)
    assert refused.value.retry_after_s > 1
    assert not (await asyncio.wait([ask(fetches, B)], timeout=0.01))[0], "who joins one that waits is not one more"
    await fetches.close()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_download_ends_when_the_last_waiter_has_gone_and_begins_anew_for_the_next(source: Source) -> None:
    fetches = ModelFetches(source.fetch, linger_s=0.01)
    first, second = ask(fetches, A), ask(fetches, A)
    await until_async(lambda: source.begun)
    first.cancel()
    await asyncio.sleep(0.05)
    assert source.cancelled == []
    second.cancel()
    await until_async(lambda: source.cancelled)
    third = ask(fetches, A)
    await until_async(lambda: len(source.begun) == 2)
    source.finish(A)
    await third


async def test_who_asks_again_soon_finds_the_same_download(source: Source) -> None:
    fetches = ModelFetches(source.fetch, linger_s=60)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await fetches.fetch(A)
    await until_async(lambda: source.begun)
    assert threads() == 1
    source.finish(A)
    await fetches.fetch(A)
    assert source.begun == [A]


async def test_nobody_waits_for_one_that_has_not_begun(source: Source) -> None:
    fetches = ModelFetches(source.fetch, at_once=1, linger_s=0.0)
    running, waiting = ask(fetches, A), ask(fetches, B)
    await until_async(lambda: source.begun)
    waiting.cancel()
    await asyncio.sleep(0.05)
    source.finish(A)
    await running
    await until_async(lambda: not threads())
    assert source.begun == [A]


async def test_a_refresh_is_not_waited_for_long_and_goes_on(source: Source) -> None:
    fetches = ModelFetches(source.fetch, at_once=1, linger_s=0.0)
    await fetches.refresh(A, 0.01)
    await until_async(lambda: source.begun)
    await fetches.refresh(A, 0.01)
    await fetches.refresh(B, 60.0)
    assert source.begun == [A], "there is no free place for the other"
    assert source.cancelled == []
    source.finish(A)
    await fetches.refresh(A, 60.0)


@pytest.mark.looptime(False)  # what is closed waits for threads, with a deadline
async def test_closing_ends_what_runs_and_refuses_what_waits(source: Source) -> None:
    fetches = ModelFetches(source.fetch, at_once=1)
    running, waiting = ask(fetches, A), ask(fetches, B)
    await until_async(lambda: source.begun)
    await fetches.close()
    assert source.cancelled == [A]
    with pytest.raises(DownloadCancelled):
        await running
    with pytest.raises(Unavailable, match="shutting down"):
        await waiting
    with pytest.raises(Unavailable, match="shutting down"):
        await fetches.fetch(C)


async def test_closing_does_not_wait_for_a_source_that_hears_nothing(source: Source) -> None:
    source.stuck.add(A)
    fetches = ModelFetches(source.fetch)
    running = ask(fetches, A)
    await until_async(lambda: source.begun)
    began_s = time.monotonic()
    await fetches.close()
    assert time.monotonic() - began_s < 15
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "model-fetch")
    running.cancel()
