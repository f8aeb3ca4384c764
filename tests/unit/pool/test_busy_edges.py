"""A lease's work begins or ends: that costs the coordinator the same however many slots it has. Counted, not timed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import EngineEvent, WorkBegan, WorkEnded
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_protocol.leases import LeaseRequest, LeaseState


class Operations:
    """Bytecode instructions of the pool's own code."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(before)

    def _entered(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "pilotlight_pool" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.count += event == "opcode"
        return self._step


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def operations_per_edge(slot_count: int) -> dict[str, int]:
    """By the kind of edge, with a lease on every slot and nobody waiting."""
    agent = MemoryAgent(*(f"s{number}" for number in range(slot_count)))
    coordinator = Coordinator(CoordinatorSettings(tick_s=3600.0), lambda: 0.0, lambda: 0.0)
    running = asyncio.create_task(coordinator.run([agent]))
    try:
        for number in range(slot_count):
            asked = LeaseRequest(f"model://f/{number % 7}", "m", tenant=f"t{number % 5}", wait_s=1.0)
            await coordinator.lease_service.request(asked, TRUSTED)
        leases = coordinator.pool.ledger.leases
        lease_id, slot_id = next((key, lease.slot_id) for key, lease in leases.items() if lease.slot_id is not None)
        found: dict[str, int] = {}
        for event, state in (
            (WorkBegan(slot_id, lease_id), LeaseState.ACTIVE),
            (WorkEnded(slot_id, lease_id), LeaseState.IDLE),
            (WorkBegan(slot_id, lease_id), LeaseState.ACTIVE),
        ):
            found[type(event).__name__] = await _operations(agent, event)
            assert coordinator.pool.ledger.leases[lease_id].state is state
        return found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _operations(agent: MemoryAgent, event: EngineEvent) -> int:
    await settle()
    operations = Operations()
    with operations.counted():
        agent.tell(event)
        await settle()
    return operations.count


@pytest.mark.parametrize("kind", ["WorkBegan", "WorkEnded"])
async def test_a_busy_or_idle_edge_costs_the_same_at_ten_slots_and_at_two_hundred(kind: str) -> None:
    few, many = await operations_per_edge(10), await operations_per_edge(200)
    assert 0 < few[kind] < 1000
    assert many[kind] == few[kind]
