"""What a watcher of the endpoints is told: everything once, then what changed, and never less than it missed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_local.embedded import endpoint_news
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress


def entry(name: str, **fields: Any) -> EndpointEntry:
    return EndpointEntry("team", name, (name,), "digest", PodsAddress("http://127.0.0.1:1", f"{name}.team"), **fields)


class Watcher:
    def __init__(self, news: EndpointNews) -> None:
        self.news = news
        self.epoch, self.version = "", 0
        self.known: dict[tuple[str, str], EndpointEntry] = {}

    async def look(self, wait_s: float = 0.0) -> DirectoryAnswer:
        answer = await self.news.after(self.epoch, self.version, wait_s)
        if answer.whole or answer.epoch != self.epoch:
            self.known = {}
        for gone in answer.gone:
            self.known.pop(gone, None)
        self.known |= {each.key: each for each in answer.changed}
        self.epoch, self.version = answer.epoch, answer.version
        return answer


ORDERS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((None, 0, 1)), st.booleans()), max_size=30)


@given(orders=ORDERS, kept=st.sampled_from((1, 4096)))
def test_a_watcher_that_looks_now_and_then_knows_what_is(orders: list[tuple[str, int | None, bool]], kept: int) -> None:
    async def run() -> None:
        news = EndpointNews("e1")
        watcher = Watcher(news)
        there: dict[str, EndpointEntry] = {}
        for name, pods_ready, looks in orders:
            if pods_ready is None:
                there.pop(name, None)
                news.remove("team", name)
            else:
                there[name] = entry(name, pods_ready=pods_ready)
                news.tell(there[name])
            if looks:
                await watcher.look()
                assert watcher.known == {each.key: each for each in there.values()}
        await watcher.look()
        assert watcher.known == {each.key: each for each in there.values()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_news, "GONE_KEPT", kept)
        asyncio.run(run())


async def test_only_what_changed_is_told_again() -> None:
    news = EndpointNews("e1")
    watcher = Watcher(news)
    for name in "abc":
        news.tell(entry(name))
    assert (await watcher.look()).whole
    news.tell(entry("b"))
    news.tell(entry("c", pods_ready=1))
    news.remove("team", "a")
    answer = await watcher.look()
    assert (answer.whole, answer.changed, answer.gone) == (False, (entry("c", pods_ready=1),), (("team", "a"),))


@pytest.mark.looptime
async def test_who_waits_is_told_at_once_and_else_when_the_time_is_over() -> None:
    news = EndpointNews("e1")
    watcher = Watcher(news)
    await watcher.look()
    loop = asyncio.get_running_loop()
    loop.call_later(3.0, news.tell, entry("a"))
    began_s = loop.time()
    await watcher.look(wait_s=25.0)
    assert watcher.known
    assert loop.time() - began_s == 3.0
    await watcher.look(wait_s=25.0)
    assert loop.time() - began_s == 28.0


async def test_another_run_of_the_platform_is_told_from_the_start() -> None:
    watcher = Watcher(EndpointNews("e1"))
    watcher.news.tell(entry("a"))
    await watcher.look()
    watcher.news = EndpointNews("e2")
    watcher.news.tell(entry("b"))
    assert (await watcher.look()).whole
    assert watcher.known.keys() == {("team", "b")}
