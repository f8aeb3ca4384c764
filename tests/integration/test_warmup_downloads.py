"""The warm pool while a hub is slow: who waits for a download, who does not, and how one ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from slow_hub import SlowHub
from warmup_pool import FAKE_POOL, Pool, fake_model, generate

pytestmark = pytest.mark.integration
MIB = 2**20


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    @contextlib.asynccontextmanager
    async def _start(hub: SlowHub) -> AsyncIterator[Pool]:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        flags = ("--slot", "cpu:0=4GiB", "--store", str(tmp_path / "store"), "--drain_s", "0")
        async with Pool(tmp_path, str(FAKE_POOL), *flags) as pool:
            yield pool

    return _start


def thread_count(pool: Pool) -> int:
    return len(list(Path(f"/proc/{pool.process.pid}/task").iterdir()))


async def ended(asking: list[asyncio.Task[Any]]) -> None:
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_models_that_are_here_do_not_wait_for_downloads(start: Any, tmp_path: Path) -> None:
    folder = fake_model(tmp_path / "model-1", 1)
    async with SlowHub.open() as hub, start(hub) as pool:
        await pool.release(await pool.lease("hf://org/fast"))
        cold = [asyncio.create_task(pool.ask(f"hf://org/cold-{number}", deadline_s=600)) for number in range(8)]
        await pool.until(lambda: hub.held >= 4, 30)
        for model in (folder, "hf://org/fast"):
            lease = await pool.lease(model, deadline_s=20)
            assert lease["phases_s"]["prefetch"] < 3
            await pool.release(lease)
        await pool.release(await pool.lease(folder, deadline_s=20))
        assert not any(task.done() for task in cold)
        await ended(cold)


async def test_a_model_that_was_fetched_before_is_served_while_its_hub_is_busy(start: Any) -> None:
    async with SlowHub.open() as hub:
        async with start(hub) as pool:
            await pool.release(await pool.lease("hf://org/fast"))
        async with start(hub) as pool:
            cold = [asyncio.create_task(pool.ask(f"hf://org/cold-{number}", deadline_s=600)) for number in range(8)]
            await pool.until(lambda: hub.held >= 4, 30)
            await pool.release(await pool.lease("hf://org/fast", deadline_s=20))
            await ended(cold)


async def test_a_holder_that_asks_again_and_again_adds_no_thread(start: Any) -> None:
    async with SlowHub.open() as hub, start(hub) as pool:
        assert (await pool.ask("hf://org/cold", deadline_s=1)).status == 503
        await pool.until(lambda: hub.held, 30)
        before = thread_count(pool)
        for _ in range(20):
            answer = await pool.ask("hf://org/cold", deadline_s=0.05)
            assert answer.status == 503
            assert float(answer.headers["Retry-After"]) >= 1
        assert thread_count(pool) <= before + 3, "look-ups have four threads at most, one of them there before"
        hub.go_on.set()
        assert (await pool.ask("hf://org/cold", deadline_s=60)).status == 201


async def test_a_download_that_nobody_waits_for_ends_and_goes_on_for_the_next(start: Any) -> None:
    async with SlowHub.open() as hub, start(hub) as pool:
        asking = asyncio.create_task(pool.ask("hf://org/cold", deadline_s=600))
        await pool.until(lambda: hub.held, 30)
        asking.cancel()
        await pool.until(lambda: "nobody waits for hf://org/cold any more" in pool.log(), 30)
        await pool.until(lambda: not hub.held, 20)
        sent = hub.sent["org/cold"]
        assert sent >= 8 * MIB
        hub.go_on.set()
        lease = await pool.lease("hf://org/cold", deadline_s=60)
        assert await generate(lease, 1)
        assert hub.sent["org/cold"] - sent < 17 * MIB, "a whole chunk of 8 MiB was there"


async def test_sigterm_ends_the_service_during_a_download(start: Any) -> None:
    async with SlowHub.open() as hub, start(hub) as pool:
        cold = [asyncio.create_task(pool.ask(f"hf://org/cold-{number}", deadline_s=600)) for number in range(8)]
        await pool.until(lambda: hub.held >= 4, 30)
        pool.process.terminate()
        assert await asyncio.to_thread(pool.process.wait, 30) == 0
        await ended(cold)
