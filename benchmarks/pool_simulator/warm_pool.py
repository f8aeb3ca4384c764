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
from pilotlight_protocol.leases import LeaseAnswer, LeaseRequest
from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Endpoint, Trace
from pool_simulator.virtual_pool import Durations, SlotClock, VirtualAgent, run

_DEADLINE_S = 3600.0
_TRIES = 5
_LAST_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the pool is made of, and its knob (`keep.price_slot_s`). Seconds; `boot_s` is a fork where there are any."""

    slots: int = 32
    boot_s: float = 29.0
    swap_ram_s: float = 0.25
    swap_disk_s: float = 1.0
    ram_models: int = 64
    lease_idle_s: float = 5.0
    keep: KeepAliveSpec = field(default_factory=KeepAliveSpec)

    def durations(self) -> Durations:
        return Durations(
            boot_s={"ram": self.boot_s, "disk": self.boot_s},
            swap_s={"ram": self.swap_ram_s, "disk": self.swap_disk_s},
            ram_models=self.ram_models,
        )

    def settings(self) -> CoordinatorSettings:
        prior: dict[EnginePath, float] = {
            "loaded": 0.005,
            "wake": 0.5,
            "swap": self.swap_ram_s,
            "fork": self.boot_s,
            "boot": self.boot_s,
        }
        eviction = EvictionSpec(PlacementSpec(PredictionSpec(process_s=prior)))
        policy = PoolPolicy(eviction=eviction, expires_s=1e7, keep_ended_s=5.0)
        return CoordinatorSettings(policy, keep_alive=self.keep, tick_s=2.0)


def simulate(trace: Trace, spec: PoolSpec, name: str) -> Outcome:
    agent = VirtualAgent(spec.slots, spec.durations())

    async def scenario(coordinator: Coordinator, clock: SlotClock) -> Outcome:
        outcome = Outcome(name, len(trace.arrivals_s))
        holders = [_Holder(endpoint, coordinator, agent, spec.lease_idle_s) for endpoint in trace.endpoints]
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
            task = asyncio.create_task(holder.request(duration_s, outcome))
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

    def __init__(self, endpoint: Endpoint, coordinator: Coordinator, agent: VirtualAgent, idle_s: float) -> None:
        self.leasing: asyncio.Task[LeaseAnswer] | None = None
        self._asked = LeaseRequest(
            f"model://{endpoint.fingerprint}/{endpoint.name}", endpoint.name, endpoint.tenant, deadline_s=_DEADLINE_S
        )
        self._lease_service = coordinator.lease_service
        self._agent = agent
        self._idle_s = idle_s
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
                if lease.path == "swap":
                    outcome.swap_waits_s.append(wait_s)
                self.begin(duration_s)
                return
        outcome.waits_s.append(_DEADLINE_S)

    async def _ready(self) -> LeaseAnswer:
        self._works = 0
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
