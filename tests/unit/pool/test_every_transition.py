"""Nothing stands in the tables of life cycles that the coordinator never does: stories with each transition in one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import ledger_check
import pytest
from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import AgentError, EngineGone, SwapFailed, SwapRefused, WorkBegan, WorkEnded
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.policy.leases import lease_lifecycle, ledger, resync, slot_lifecycle
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import LeaseRequest

A, B, C = "model://f/a", "model://f/b", "model://g/c"
Transition = tuple[str, str]


class Story:
    """A coordinator of one slot, and what its holders and its agent do."""

    def __init__(self, sleepers: int) -> None:
        self.now_s = 1000.0
        self.agent = MemoryAgent("s0", sleepers=sleepers)
        at_once = BackOff(0.0, 30.0, free=1)
        settings = CoordinatorSettings(PoolPolicy(back_off=at_once), DriverSettings(back_off=at_once), tick_s=3600.0)
        self.coordinator = Coordinator(settings, lambda: self.now_s, lambda: self.now_s)

    async def settle(self) -> None:
        for _ in range(40):
            await asyncio.sleep(0)

    async def ask(self, model: str, tenant: str = "a", **more: Any) -> str:
        asked = LeaseRequest(model, "m", tenant=tenant, **{"deadline_s": 600.0} | more)
        waiting = asyncio.create_task(self.coordinator.lease_service.request(asked, TRUSTED))
        await self.settle()
        return (await waiting).lease_id

    async def release(self, lease_id: str) -> None:
        with contextlib.suppress(PilotlightError):
            self.coordinator.lease_service.release(lease_id, TRUSTED)
        await self.settle()

    async def work(self, kind: type[WorkBegan] | type[WorkEnded], lease_id: str) -> None:
        self.agent.tell(kind("s0", lease_id))
        await self.settle()

    async def fall_silent(self) -> None:
        self.now_s += 60.0
        self.coordinator.pool.expire()
        await self.settle()

    async def failing(self, command: str, error: type[AgentError], model: str, times: int = 1) -> str:
        left = [times]

        def fails(name: str, slot_id: str, subject: str) -> AgentError | None:
            if name != command or not left[0]:
                return None
            left[0] -= 1
            return error("it failed")

        self.agent.fails = fails
        try:
            return await self.ask(model)
        finally:
            await self.settle()
            self.agent.fails = lambda name, slot_id, subject: None


@contextlib.asynccontextmanager
async def told(sleepers: int = 0) -> AsyncIterator[Story]:
    story = Story(sleepers)
    running = asyncio.create_task(story.coordinator.run([story.agent]))
    await story.settle()
    try:
        yield story
        assert not running.done(), running
        assert ledger_check.check(story.coordinator.pool.ledger) == ()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def engines_come_and_go() -> None:
    async with told() as story:
        for model in (A, B, C):
            lease = await story.ask(model)
            await story.work(WorkBegan, lease)
            await story.release(lease)
        lease = await story.ask(C)
        for kind in (WorkBegan, WorkEnded, WorkBegan, WorkEnded):
            await story.work(kind, lease)
        await story.release(lease)
    async with told(sleepers=1) as story:
        for model in (A, C, A):
            await story.release(await story.ask(model))


async def commands_fail() -> None:
    async with told() as story:
        await story.failing("boot", EngineGone, A, times=9)
        await story.release(await story.ask(A))
        for error in (SwapFailed, SwapRefused, EngineGone):
            await story.release(await story.failing("swap", error, B))
            await story.release(await story.ask(A))
        lease = await story.ask(A)
        story.agent.fails = lambda name, slot_id, subject: EngineGone("gone") if name == "revoke" else None
        await story.release(lease)
    for command, models in (("sleep", (A, C)), ("wake", (A, C, A))):
        async with told(sleepers=1) as story:
            for model in models[:-1]:
                await story.release(await story.ask(model))
            await story.failing(command, EngineGone, models[-1])


async def engines_die() -> None:
    async with told() as story:
        await story.release(await story.ask(A))
        story.agent.die("s0")
        await story.settle()
        for last in (WorkBegan, WorkEnded):
            lease = await story.ask(A)
            await story.work(WorkBegan, lease)
            await story.work(last, lease)
            story.agent.die("s0")
            await story.settle()
            await story.release(lease)


async def leases_give_way() -> None:
    async with told() as story:
        batch = await story.ask(A, "a", priority="batch")
        await story.work(WorkBegan, batch)
        urgent = await story.ask(B, "b", priority="interactive")
        await story.work(WorkEnded, urgent)
        await story.ask(A, "a")
        await story.fall_silent()
    async with told() as story:
        story.agent.gate = asyncio.Event()
        await story.ask(A, "a", priority="batch")
        await story.ask(A, "b", priority="interactive")
        story.agent.gate.set()


async def leases_end_early() -> None:
    """On their way, and in the queue, by each way to end."""
    for end in ("release", "expire", "refuse"):
        async with told() as story:
            story.agent.gate = asyncio.Event()
            placing = await story.ask(A, priority="interactive")
            queued = await story.ask(C, "b", priority="interactive")
            if end == "release":
                await story.release(queued)
                await story.release(placing)
            elif end == "expire":
                await story.fall_silent()
            else:
                story.coordinator.lease_service.close()
                story.now_s += 700.0
                story.coordinator._refuse_late()
            story.agent.gate.set()
            await story.settle()
    for kind in (WorkBegan, WorkEnded):
        async with told() as story:
            lease = await story.ask(A)
            await story.work(WorkBegan, lease)
            await story.work(kind, lease)
            await story.fall_silent()


async def test_every_transition_of_the_tables_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Transition] = set()

    def noting(kind: str, next_state: Callable[..., Any]) -> Callable[..., Any]:
        def noted(state: Any, event: Any, *names: str) -> Any:
            after = next_state(state, event, *names)
            seen.add((f"{kind} {state}", str(event)))
            return after

        return noted

    monkeypatch.setattr(ledger, "next_slot_state", noting("slot", slot_lifecycle.next_state))
    monkeypatch.setattr(ledger, "next_lease_state", noting("lease", lease_lifecycle.next_state))
    monkeypatch.setattr(resync, "next_state", noting("lease", lease_lifecycle.next_state))
    for story in (engines_come_and_go, commands_fail, engines_die, leases_give_way, leases_end_early):
        await story()
    tables: tuple[tuple[str, Any], ...] = (
        ("slot", slot_lifecycle.TRANSITIONS),
        ("lease", lease_lifecycle.TRANSITIONS),
    )
    known = {(f"{kind} {state}", str(event)) for kind, table in tables for state in table for event in table[state]}
    assert known - seen == set()
