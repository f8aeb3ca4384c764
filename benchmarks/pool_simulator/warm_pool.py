"""A request trace on the warm pool: the coordinator itself, and per endpoint a holder as a predictor is one.

An endpoint asks for a lease when it has work and none, serves any number of requests with it at once (continuous
batching), and gives it back after `lease_idle_s` without work. What a request waits for is the lease; the pods in front
of it are not modelled. `slots` bounds the pool; engines leave their slots as the keep-alive policy says.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from pilotlight_pool.agent_port import WorkBegan, WorkEnded
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_pool.policy.placement.eviction_rules import EvictionSpec
from pilotlight_pool.policy.placement.placement import PlacementSpec
from pilotlight_pool.policy.placement.prediction import Path as EnginePath
from pilotlight_pool.policy.placement.prediction import PredictionSpec
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import Isolation, LeaseAnswer, LeaseRequest
from pool_simulator.costs import Costs
from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Endpoint, Trace
from pool_simulator.virtual_pool import SlotClock, VirtualAgent, run

_DEADLINE_S = 3600.0
_TRIES = 5
_LAST_WAIT_S = 600.0
# Looked at what time alone changes, a tenth as often as the product does: runs take minutes, not hours.
_TICK_S = 2.0


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the pool is made of, and its knobs (`keep`). `swappable`: whether engines exchange their weights at all;
    `isolation`: "dedicated" lets no two tenants have one engine."""

    costs: Costs
    slots: int = 12
    lease_idle_s: float = 5.0
    keep: KeepAliveSpec = field(default_factory=KeepAliveSpec)
    swappable: bool = True
    isolation: Isolation = "shared"

    def settings(self) -> CoordinatorSettings:
        costs = self.costs
        prior: dict[EnginePath, float] = {
            "loaded": costs.loaded_s,
            "wake": costs.wake_s,
            "swap": costs.swap_ram_s,
            "fork": costs.fork_s,
            "boot": costs.fork_s,
        }
        eviction = EvictionSpec(PlacementSpec(PredictionSpec(process_s=prior), stop_s=costs.stop_s))
        policy = PoolPolicy(eviction=eviction, expires_s=1e7, keep_ended_s=5.0)
        return CoordinatorSettings(policy, keep_alive=self.keep, isolation=self.isolation, tick_s=_TICK_S)

    def uri(self, endpoint: Endpoint) -> str:
        return f"model://{endpoint.fingerprint}/{endpoint.name}{'' if self.swappable else '?boot'}"


def simulate(trace: Trace, spec: PoolSpec, name: str, counted_from_s: float = 0.0) -> Outcome:
    """`counted_from_s`: what arrives before is served, and left out of the figures but for slot-seconds and boots."""
    agent = VirtualAgent(spec.slots, spec.costs.durations(), spec.costs.sleepers)

    async def scenario(coordinator: Coordinator, clock: SlotClock) -> Outcome:
        outcome = Outcome(name, sum(at_s >= counted_from_s for at_s in trace.arrivals_s))
        left_out = Outcome(name, 0)
        holders = [_Holder(endpoint, coordinator, agent, spec) for endpoint in trace.endpoints]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        requests: set[asyncio.Task[None]] = set()
        for at_s, endpoint, duration_s in zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True):
            if (left_s := began_s + at_s - loop.time()) > 0:
                await asyncio.sleep(left_s)
            holder = holders[endpoint]
            if holder.serves():
                holder.begin(duration_s)
                continue
            task = asyncio.create_task(holder.request(duration_s, outcome if at_s >= counted_from_s else left_out))
            requests.add(task)
            task.add_done_callback(requests.discard)
        clock.look()
        outcome.slot_seconds, outcome.peak_slots = clock.held_slot_s, clock.peak_slots
        if requests:
            await asyncio.wait(requests, timeout=_LAST_WAIT_S)
        outcome.boots = agent.boots
        for holder in holders:
            if holder.leasing is not None:
                holder.leasing.cancel()
        for task in requests:
            task.cancel()
        return outcome

    return run(spec.settings(), agent, scenario)


class _Holder:
    """One endpoint's predictor."""

    def __init__(self, endpoint: Endpoint, coordinator: Coordinator, agent: VirtualAgent, spec: PoolSpec) -> None:
        self.leasing: asyncio.Task[LeaseAnswer] | None = None
        self._asked = LeaseRequest(spec.uri(endpoint), endpoint.name, endpoint.tenant, deadline_s=_DEADLINE_S)
        self._lease_service = coordinator.lease_service
        self._agent = agent
        self._idle_s = spec.lease_idle_s
        self._loop = asyncio.get_running_loop()
        self._lease: LeaseAnswer | None = None
        self._works = 0
        self._giving_back: asyncio.TimerHandle | None = None

    def serves(self) -> bool:
        return self._lease is not None and not self._is_revoked(self._lease)

    def begin(self, duration_s: float) -> None:
        assert self._lease is not None
        if not self._works:
            if self._giving_back is not None:
                self._giving_back.cancel()
            self._tell(WorkBegan)
        self._works += 1
        self._loop.call_later(duration_s, self._end)

    async def request(self, duration_s: float, outcome: Outcome) -> None:
        began_s = self._loop.time()
        for _ in range(_TRIES):
            if self.leasing is None:
                self.leasing = asyncio.create_task(self._ready())
            with contextlib.suppress(PilotlightError):
                lease = await asyncio.shield(self.leasing)
                wait_s = self._loop.time() - began_s
                outcome.waits_s.append(wait_s)
                outcome.boot_waits += lease.path in {"fork", "boot"}
                if lease.path == "swap":
                    outcome.swap_waits_s.append(wait_s)
                self.begin(duration_s)
                return
        outcome.waits_s.append(_DEADLINE_S)

    async def _ready(self) -> LeaseAnswer:
        self._works = 0
        if self._lease is not None:
            # Taken back: its holder says that it knows, and it is forgotten.
            self._lease_service.release(self._lease.lease_id, TRUSTED)
            self._lease = None
        try:
            answer = await self._lease_service.request(self._asked, TRUSTED)
            while not answer.endpoint:
                answer = await self._lease_service.poll(answer.lease_id, 600.0, TRUSTED)
            self._agent.revoked[answer.lease_id] = asyncio.Event()
            self._lease = answer
            return answer
        finally:
            self.leasing = None

    def _end(self) -> None:
        self._works -= 1
        if self._works == 0 and self.serves():
            self._tell(WorkEnded)
            self._giving_back = self._loop.call_later(self._idle_s, self._give_back)
        self._works = max(0, self._works)

    def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None and not self._is_revoked(lease):
            self._lease_service.release(lease.lease_id, TRUSTED)

    def _is_revoked(self, lease: LeaseAnswer) -> bool:
        event = self._agent.revoked.get(lease.lease_id)
        return event is None or event.is_set()

    def _tell(self, event: type[WorkBegan] | type[WorkEnded]) -> None:
        assert self._lease is not None
        self._agent.tell(event(self._lease.endpoint.removeprefix("unix:///"), self._lease.lease_id))
