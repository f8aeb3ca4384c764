"""A coordinator that runs, the agents without processes that are its own, and its clock, which only a test moves.

After every step the ledger keeps its promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ledger_check
from memory_agent import MemoryAgent

from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.policy.leases.access import TRUSTED, Caller
from pilotlight_pool.policy.leases.presence import Applicant, Taken
from pilotlight_protocol.leases import LeaseAnswer, LeaseRequest


class World:
    def __init__(self, settings: CoordinatorSettings, *agents: MemoryAgent) -> None:
        self.now_s = 1000.0
        self.agents = agents
        self.coordinator = Coordinator(settings, lambda: self.now_s, lambda: self.now_s)
        self.coordinator.pool.on_change.append(self._check)

    def _check(self, slot_ids: Sequence[str]) -> None:
        assert ledger_check.check(self.coordinator.pool.ledger) == ()

    @property
    def agent(self) -> MemoryAgent:
        (only,) = self.agents
        return only

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def ask(self, model: str, caller: Caller = TRUSTED, name: str = "m", **more: Any) -> LeaseAnswer:
        request = LeaseRequest(model, name, **{"deadline_s": 600.0} | more)
        waiting = asyncio.create_task(self.coordinator.lease_service.request(request, caller))
        await self.settle()
        return await waiting

    async def lease(self, model: str, **more: Any) -> LeaseAnswer:
        answer = await self.ask(model, **more)
        return await self.coordinator.lease_service.poll(answer.lease_id, 0.0, TRUSTED)

    async def release(self, answer: LeaseAnswer) -> None:
        self.coordinator.lease_service.release(answer.lease_id, TRUSTED)
        await self.settle()

    async def join(self, agent: MemoryAgent, instance: str = "1", seen_epoch: int = 0) -> None:
        """An agent that was not there from the start dials in."""
        slots = frozenset(slot.slot_id for slot in agent.slots)
        verdict = self.coordinator.registry.register(Applicant(agent.name, instance, slots, seen_epoch))
        assert isinstance(verdict, Taken), verdict
        agent.listen(self.coordinator.registry.hear)
        self.coordinator.registry.take_over(agent, await agent.report())
        await self.settle()

    async def leave(self, agent: MemoryAgent) -> None:
        self.coordinator.registry.leave(agent, "the cable was cut")
        await self.settle()

    async def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        self.coordinator.registry.tick()
        self.coordinator.pool.expire()
        await self.settle()

    def take_time(self, boot_s: float) -> None:
        """From now on boots take so long."""

        def passing(command: str, slot_id: str, model: str) -> None:
            self.now_s += boot_s if command == "boot" else 0.0

        self.agent.fails = passing

    def commands(self) -> list[str]:
        return [name for name, *_ in self.agent.calls]

    def states(self) -> list[str]:
        return [str(slot.state) for slot in self.coordinator.pool.ledger.slots.values()]


class Worlds:
    """Those of one test: none of their coordinators may end before the test does."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, settings: CoordinatorSettings, *agents: MemoryAgent) -> World:
        world = World(settings, *agents)
        self._tasks.append(asyncio.create_task(world.coordinator.run(list(agents))))
        await world.settle()
        return world

    async def end(self) -> None:
        for task in self._tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
