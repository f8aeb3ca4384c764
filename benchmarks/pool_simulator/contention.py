"""Leases that compete for slots. Work that is taken back queues again at once and goes on where it was.

Every slot starts with an engine of the one fingerprint, so what is measured is waiting and swapping, not booting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilotlight_pool.agent_port import WorkBegan
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_pool.policy.placement import eviction_rules, fairness
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import LeaseAnswer, LeaseRequest, Priority
from pool_simulator.virtual_pool import Durations, SlotClock, VirtualAgent, run

FINGERPRINT = "f"
_FOREVER_S = 1e7


@dataclass(frozen=True, slots=True)
class Arrival:
    """A lease that is wanted at `at_s` for `work_s` seconds of work, then released. `endpoint`: those of one may share
    an engine, "" for one of its own."""

    at_s: float
    lease_id: str
    tenant: str
    model: str
    work_s: float
    priority: Priority = "normal"
    fingerprint: str = FINGERPRINT
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    """`drain_s` is what a preempted or released engine needs until it is free. Engines never go for want of use."""

    slot_count: int
    fairness: fairness.FairnessSpec
    eviction: eviction_rules.EvictionSpec
    drain_s: float = 0.05

    def durations(self) -> Durations:
        process_s = self.eviction.placement.prediction.process_s
        boot_s, swap_s = process_s["fork"], process_s["swap"]
        return Durations(
            {"ram": boot_s, "disk": boot_s},
            {"ram": swap_s, "disk": swap_s},
            self.drain_s,
            self.eviction.placement.stop_s,
        )

    def settings(self) -> CoordinatorSettings:
        policy = PoolPolicy(self.fairness, self.eviction, expires_s=_FOREVER_S)
        keep = KeepAliveSpec(price_slot_s=_FOREVER_S, max_standard_keep_alive_s=_FOREVER_S, min_gaps=10**9)
        return CoordinatorSettings(policy, keep_alive=keep)


@dataclass
class Outcome:
    """`waits_s`: per lease, from wanting to ready (queue, drain, swap); `first_eta_s`: what had been predicted for it
    when it came. `busy_slot_s`: time at work by tenant, `idle_slot_s`: of free slots while leases waited. `refused`:
    with the sentence that said why."""

    waits_s: dict[str, float] = field(default_factory=dict)
    first_eta_s: dict[str, float | None] = field(default_factory=dict)
    preemptions: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    busy_slot_s: dict[str, float] = field(default_factory=dict)
    idle_slot_s: float = 0.0
    finished_at_s: dict[str, float] = field(default_factory=dict)


def simulate(pool: Pool, arrivals: Sequence[Arrival], until_s: float) -> Outcome:
    """Run the arrivals until all are done, at most until `until_s`."""
    agent = VirtualAgent(pool.slot_count, pool.durations())
    agent.start_with(FINGERPRINT)

    async def scenario(coordinator: Coordinator, clock: SlotClock) -> Outcome:
        holders = _Holders(coordinator, agent)
        waiting = {asyncio.create_task(holders.live(arrival)) for arrival in arrivals}
        done, late = await asyncio.wait(waiting, timeout=until_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
        clock.look()
        holders.outcome.idle_slot_s = clock.idle_slot_s
        return holders.outcome

    return run(pool.settings(), agent, scenario)


class _Holders:
    def __init__(self, coordinator: Coordinator, agent: VirtualAgent) -> None:
        self.outcome = Outcome()
        self._lease_service = coordinator.lease_service
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()

    async def live(self, arrival: Arrival) -> None:
        """One arrival from wanting to the end of its work, through any number of leases."""
        await asyncio.sleep(arrival.at_s)
        left_s = arrival.work_s
        while left_s > 0:
            try:
                lease = await self._ready(arrival)
            except PilotlightError as error:
                self.outcome.refused[arrival.lease_id] = error.message
                return
            self.outcome.waits_s.setdefault(arrival.lease_id, self._now_s() - arrival.at_s)
            left_s = await self._work(arrival, lease, left_s)
        self.outcome.finished_at_s[arrival.lease_id] = self._now_s()

    async def _ready(self, arrival: Arrival) -> LeaseAnswer:
        asked = LeaseRequest(
            f"model://{arrival.fingerprint}/{arrival.model}", arrival.endpoint or arrival.lease_id, arrival.tenant,
            arrival.priority, deadline_s=_FOREVER_S, wait_s=0.0,
        )  # fmt: skip
        answer = await self._lease_service.request(asked, TRUSTED)
        self.outcome.first_eta_s.setdefault(arrival.lease_id, answer.eta_s)
        while not answer.endpoint:
            answer = await self._lease_service.poll(answer.lease_id, 60.0, TRUSTED)
        return answer

    async def _work(self, arrival: Arrival, lease: LeaseAnswer, left_s: float) -> float:
        """Seconds of work that are left: the engine may be taken back."""
        revoked = self._agent.revoked[lease.lease_id] = asyncio.Event()
        self._agent.tell(WorkBegan(lease.endpoint.removeprefix("unix:///"), lease.lease_id))
        began_s = self._loop.time()
        try:
            async with asyncio.timeout(left_s):
                await revoked.wait()
            self.outcome.preemptions[arrival.lease_id] = self.outcome.preemptions.get(arrival.lease_id, 0) + 1
        except TimeoutError:
            self._lease_service.release(lease.lease_id, TRUSTED)
        finally:
            del self._agent.revoked[lease.lease_id]
            worked_s = min(left_s, self._loop.time() - began_s)
            busy = self.outcome.busy_slot_s
            busy[arrival.tenant] = busy.get(arrival.tenant, 0.0) + worked_s
        rest_s = left_s - worked_s
        return rest_s if rest_s > 1e-6 else 0.0

    def _now_s(self) -> float:
        return self._loop.time() - self._began_s
