"""Tokenizers and templates in the gateway's cache: shared by content, loaded once, bounded, never dropped in use."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pilotlight_gateway.short_way.text_cache import REFUSED_S, TextCache, TextRefused, UnloadedText
from pilotlight_protocol.endpoint_directory import TextFiles
from pilotlight_protocol.errors import Unavailable
from pilotlight_text.text_model import LoadedText
from pilotlight_text.text_workers.loading import WorkerText


class Codec:
    closed = False

    def close(self) -> None:
        self.closed = True


class Loader:
    """Files named `NAME` or `NAME@elsewhere` have the content NAME. `loading` has begun, and waits for `gate`."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.loads: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.loading = asyncio.Event()
        self.broken = False
        self.refused: dict[str, Unavailable] = {}

    async def read(self, files: TextFiles) -> UnloadedText:
        self.reads.append(files.model_uri)
        if self.broken:
            raise Unavailable("no such files")
        content = files.model_uri.partition("@")[0]

        async def load() -> WorkerText:
            self.loads.append(content)
            self.loading.set()
            await self.gate.wait()
            if content in self.refused:
                raise self.refused[content]
            return WorkerText(cast(LoadedText, SimpleNamespace(codec=Codec())), 10)

        return UnloadedText(content, load)


def files(name: str) -> TextFiles:
    return TextFiles(name)


async def used(cache: TextCache, name: str) -> Any:
    async with cache.text(files(name)) as text:
        return text


async def test_equal_files_of_two_models_are_one_text_and_each_address_is_read_once() -> None:
    loader = Loader()
    cache = TextCache(loader)
    first, second = await used(cache, "a"), await used(cache, "a@elsewhere")
    assert first is second
    assert await used(cache, "a") is first
    assert (loader.reads, loader.loads) == (["a", "a@elsewhere"], ["a"])


async def test_those_who_come_while_it_loads_wait_for_the_same_loading() -> None:
    loader = Loader()
    loader.gate.clear()
    cache = TextCache(loader)
    waiting = [asyncio.create_task(used(cache, name)) for name in ("a", "a", "a@elsewhere")]
    await loader.loading.wait()
    loader.gate.set()
    texts = await asyncio.gather(*waiting)
    assert texts[0] is texts[1] is texts[2]
    assert loader.loads == ["a"]


async def test_a_client_that_leaves_ends_nobody_elses_loading() -> None:
    loader = Loader()
    loader.gate.clear()
    cache = TextCache(loader)
    leaves, stays = asyncio.create_task(used(cache, "a")), asyncio.create_task(used(cache, "a"))
    await loader.loading.wait()
    leaves.cancel()
    await asyncio.wait({leaves})
    assert leaves.cancelled()
    loader.gate.set()
    await stays
    assert loader.loads == ["a"]


async def test_the_least_recently_used_goes_and_what_is_in_use_stays() -> None:
    loader = Loader()
    cache = TextCache(loader, max_bytes=20)
    async with cache.text(files("held")) as held:
        old = await used(cache, "old")
        young = await used(cache, "young")
        assert old.codec.closed
        assert not young.codec.closed
        another = await used(cache, "another")
        assert young.codec.closed
        assert not cast(Any, held.codec).closed
        assert not another.codec.closed
    assert (await used(cache, "another")) is another
    await used(cache, "old")
    assert loader.loads == ["held", "old", "young", "another", "old"]
    assert cast(Any, held.codec).closed


async def test_files_that_cannot_be_read_are_read_again_by_the_next_who_asks() -> None:
    loader = Loader()
    loader.broken = True
    cache = TextCache(loader)
    with pytest.raises(Unavailable):
        await used(cache, "a")
    loader.broken = False
    await used(cache, "a")
    assert loader.reads == ["a", "a"]


async def test_after_its_spec_has_changed_the_files_are_read_again_but_equal_ones_not_loaded() -> None:
    loader = Loader()
    cache = TextCache(loader)
    before = await used(cache, "a")
    cache.forget(files("a"))
    assert await used(cache, "a") is before
    assert (loader.reads, loader.loads) == (["a", "a"], ["a"])


@pytest.mark.looptime
async def test_what_is_no_text_is_tried_again_by_nobody_for_a_while() -> None:
    loader = Loader()
    loader.refused = {"bad": TextRefused("no tokenizer", retry_after_s=30), "late": Unavailable("no room")}
    cache = TextCache(loader)
    for name in ("bad", "bad@elsewhere", "bad", "late", "late"):
        with pytest.raises(Unavailable, match="no tokenizer" if "bad" in name else "no room"):
            await used(cache, name)
    assert loader.loads == ["bad", "late", "late"]
    await used(cache, "good")
    await asyncio.sleep(REFUSED_S + 1)
    loader.refused.clear()
    await used(cache, "bad")
    assert loader.loads[-2:] == ["good", "bad"]
