"""What a lease whose work begins or ends costs the coordinator: microseconds, by how many slots are leased."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import WorkBegan, WorkEnded
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_protocol.leases import LeaseRequest

_EDGES = 200


async def edge_us(slots: int) -> float:
    agent = MemoryAgent(*(f"s{n}" for n in range(slots)))
    coordinator = Coordinator(CoordinatorSettings(tick_s=3600.0), lambda: 0.0, lambda: 0.0)
    running = asyncio.create_task(coordinator.run([agent]))
    service = coordinator.lease_service
    leases = []
    for n in range(slots):
        asked = LeaseRequest(f"model://f/{n % 50}", "m", tenant=f"t{n % 20}", priority="interactive", wait_s=10.0)
        leases.append(await service.request(asked, TRUSTED))
    slot_of = {lease_id: lease.slot_id or "" for lease_id, lease in coordinator.pool.ledger.leases.items()}
    for lease in leases:
        agent.tell(WorkBegan(slot_of[lease.lease_id], lease.lease_id))
    for _ in range(10):
        await asyncio.sleep(0)
    best = float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        for n in range(_EDGES):
            lease_id = leases[(n // 2 * 7) % slots].lease_id
            agent.tell((WorkEnded if n % 2 == 0 else WorkBegan)(slot_of[lease_id], lease_id))
            for _ in range(4):
                await asyncio.sleep(0)
        best = min(best, (time.perf_counter() - began_s) / _EDGES)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return best * 1e6


if __name__ == "__main__":
    for count in (10, 100, 1000):
        print(f"{count:5d} slots: {asyncio.run(edge_us(count)):9.1f} us per edge")
