"""Coordinator and agents as processes of their own, over fake engines: they come, go and come back under leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from apart_pool import ApartPool
from waiting import until_async
from warmup_pool import FAKE_POOL, Answer, Holder, fake_model, generate

from pilotlight_protocol import engine_frames as f

pytestmark = pytest.mark.integration
EXPIRES = ("--lease_expires_s=6",)


@pytest.fixture
def models(tmp_path: Path) -> Callable[..., Path]:
    return lambda number, **behaviour: fake_model(tmp_path / f"model-{number}", number, **behaviour)


@contextlib.asynccontextmanager
async def pool_in(folder: Path, *coordinator_flags: str, agents: int = 2) -> AsyncIterator[ApartPool]:
    async with ApartPool(folder, str(FAKE_POOL), agents=agents, coordinator_flags=coordinator_flags) as pool:
        yield pool


async def streaming(lease: dict[str, Any], tokens: int) -> tuple[asyncio.Task[list[int]], list[int]]:
    """A long stream that runs; `seen` grows with it."""
    seen: list[int] = []
    running = asyncio.Event()

    async def run() -> list[int]:
        async with Holder.open(lease) as holder:
            assert isinstance(await holder.frame(), f.Welcome)
            holder.ask(tokens)
            while len(seen) < tokens:
                frame = await holder.frame()
                assert isinstance(frame, f.Step), frame
                for _, delta in frame.deltas:
                    seen.extend(delta.token_ids)
                running.set()
        return seen

    task = asyncio.create_task(run())
    async with asyncio.timeout(30):
        await running.wait()
    return task, seen


async def until_answered(call: Callable[[], Any], status: int, within_s: float = 30.0) -> Answer:
    """Repeats a call to a coordinator that may just be starting; 503 meanwhile is fine, anything else is not."""

    async def answered() -> Answer | None:
        with contextlib.suppress(aiohttp.ClientError):
            answer: Answer = await call()
            assert answer.status in (status, 503), answer
            return answer
        return None

    answer = await until_async(answered, within_s, holds=lambda seen: seen is not None and seen.status == status)
    assert answer is not None
    return answer


async def test_leases_on_both_agents_swap_and_are_given_back(models: Any, tmp_path: Path) -> None:
    first, second = models(1), models(2)
    async with pool_in(tmp_path) as pool:
        leases = [await pool.lease(first, priority="interactive") for _ in range(2)]
        assert {(await pool.agent_of(lease["lease_id"])).name for lease in leases} == {"n0", "n1"}
        for lease in leases:
            assert lease["endpoint"].startswith("tcp://127.0.0.1:")
            assert await generate(lease, 3) == [1, 1, 1]
            await pool.release(lease)
        lease = await pool.lease(second)
        assert (lease["path"], await generate(lease, 2)) == ("swap", [2, 2])
        async with Holder.open(lease, secret="0" * 64) as stranger:
            with pytest.raises((EOFError, ConnectionError)):
                await stranger.frame()
        token = pool.token_file.read_text().strip()
        assert token not in "".join(service.log() for service in pool.services())


async def test_a_coordinator_that_is_killed_loses_no_lease_and_no_token(models: Any, tmp_path: Path) -> None:
    slow = models(1, step_s=0.01)
    async with pool_in(tmp_path, *EXPIRES) as pool:
        lease = await pool.lease(slow, priority="interactive")
        other = await pool.lease(slow, priority="interactive")
        stream, seen = await streaming(lease, 400)
        before = len(seen)
        await pool.restart_coordinator()
        answer = await until_answered(lambda: pool.heartbeat(lease), 200)
        assert answer.body["state"] == "active"
        assert len(seen) > before
        await pool.registered(2)
        lines = (await pool.call("GET", "/v1/leases")).body["leases"]
        assert sorted(line["lease_id"] for line in lines) == sorted([lease["lease_id"], other["lease_id"]])
        assert await stream == [1] * 400
        await pool.release(lease)
        await pool.release(other)
        again = await pool.lease(slow)
        assert again["path"] == "loaded"


async def test_what_is_given_back_before_its_agent_is_back_does_not_come_back(models: Any, tmp_path: Path) -> None:
    async with pool_in(tmp_path, *EXPIRES, agents=1) as pool:
        lease = await pool.lease(models(1))
        pool.agents[0].freeze()
        await pool.restart_coordinator()
        await until_answered(lambda: pool.call("DELETE", f"/v1/leases/{lease['lease_id']}"), 204)
        pool.agents[0].thaw()
        await pool.registered(1)
        await pool.state_becomes("idle")
        assert (await pool.lease(models(2)))["path"] == "swap"


async def test_an_agent_that_is_killed_ends_its_leases_and_work_goes_elsewhere(models: Any, tmp_path: Path) -> None:
    model = models(1, step_s=0.01)
    async with pool_in(tmp_path, "--agent_lost_s=1") as pool:
        lease = await pool.lease(model, priority="interactive")
        agent = await pool.agent_of(lease["lease_id"])
        stream, _ = await streaming(lease, 400)
        agent.kill()
        with pytest.raises((EOFError, ConnectionError)):
            await stream
        again = await pool.lease(model, priority="interactive")
        assert (await pool.agent_of(again["lease_id"])).name != agent.name
        stream, _ = await streaming(again, 2000)
        gone = await until_gone(pool, lease)
        assert "has not answered" in gone.body["error"]
        assert not agent.left()
        agent.start()
        await pool.registered(2)
        third = await pool.lease(model, priority="interactive", tenant="other")
        assert (await pool.agent_of(third["lease_id"])).name == agent.name
        await pool.release(again)
        with pytest.raises((AssertionError, EOFError, ConnectionError)):
            await stream


async def until_gone(pool: ApartPool, lease: dict[str, Any]) -> Answer:
    answer = await until_async(lambda: pool.heartbeat(lease), holds=lambda answer: answer.status != 200)
    assert answer.status == 410, answer
    return answer


async def test_a_lease_that_expires_behind_a_cut_cable_is_revoked_when_the_agent_is_back(
    models: Any, tmp_path: Path
) -> None:
    model = models(1)
    async with pool_in(tmp_path, "--lease_expires_s=2", "--agent_lost_s=60", agents=1) as pool:
        lease = await pool.lease(model)
        pool.agents[0].freeze()
        await until_async(pool.slots, what=pool.log, holds=lambda slots: slots[0]["absent"])
        assert (await pool.heartbeat(lease)).status == 410
        waiting = asyncio.create_task(pool.lease(model))
        pool.agents[0].thaw()
        assert (await waiting)["path"] == "loaded"
        async with Holder.open(lease) as holder:
            with pytest.raises((EOFError, ConnectionError)):
                await holder.frame()


async def test_wrong_tokens_are_turned_away_and_said_so(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("f" * 64)
    async with pool_in(tmp_path, agents=1) as pool:
        stranger = pool.new_agent("stranger", wrong)
        pool.agents.append(stranger)
        stranger.start()
        await pool.until(lambda: "is --token_file the coordinator's?" in stranger.log(), 30)
        assert "with a wrong token" in pool.coordinator.log()
        assert len(await pool.slots()) == 1
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer wröng"}):
            async with pool.session.get(pool.door + "/v1/agent", headers=headers) as answer:
                assert answer.status == 401
        wrong.write_text(pool.token_file.read_text())
        await pool.registered(2)


async def test_a_second_agent_of_the_same_name_is_turned_away(tmp_path: Path) -> None:
    async with pool_in(tmp_path, agents=1) as pool:
        twin = pool.new_agent("n0")
        twin.name = "twin"
        twin._argv = [word.replace(f"{tmp_path}/n0", f"{tmp_path}/twin") for word in twin._argv]
        pool.agents.append(twin)
        twin.start()
        await pool.until(lambda: "is connected already" in twin.log(), 30)
        assert len(await pool.slots()) == 1
