"""The agents: who has registered, who is away, and one driver per slot of those that are here.

    take_over   slots as an agent reports them; their drivers start
    leave       the agent cannot be reached: its slots are absent, what they serve goes on without us
    tick        an agent that stays away is forgotten, and what its engines served is lost

Every slot has at most one driver that runs, so commands for it never overlap. Must not decide who belongs to the pool
(policy.presence does), nor where leases go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from pilotlight_pool.agent_port import AgentPort, EngineEvent, EngineLost, SlotReport, SwapProven, WorkBegan
from pilotlight_pool.coordinator import slot_membership
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.reported_state import reported_slot, served_leases
from pilotlight_pool.coordinator.shared_proofs import SharedProofs
from pilotlight_pool.coordinator.slot_driver import SlotDriver
from pilotlight_pool.policy.leases import presence
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.presence import Applicant, Member, PresenceSpec, Superseded, Taken, TurnedAway
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.errors import PilotlightError, Unavailable

log = logging.getLogger(__name__)
AWAY = "its agent does not answer"


class AgentRegistry:
    """`drivers`: of every slot that is known, also while its agent is away. `epoch`: this coordinator's."""

    def __init__(
        self, pool: Pool, metrics: PoolMetrics, driver: DriverSettings, spec: PresenceSpec, epoch: int
    ) -> None:
        self.epoch = epoch
        self.spec = spec
        self.drivers: dict[str, SlotDriver] = {}
        self.arrived = asyncio.Event()
        self._pool = pool
        self._metrics = metrics
        self._driver = driver
        self._members: Mapping[str, Member] = {}
        self._agents: dict[str, AgentPort] = {}
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self.proofs = SharedProofs(self.agents)

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Drivers are tasks of this group from now on."""
        self._tasks = tasks

    def agents(self) -> list[AgentPort]:
        """Those that can be asked now, the one with the most free slots first."""
        return sorted(self._agents.values(), key=lambda agent: (-self._free_slots(agent), agent.name))

    def register(self, applicant: Applicant) -> Taken | TurnedAway | Superseded:
        """What the policy says; an older connection of the same process has left when this returns."""
        before = self._members.get(applicant.name)
        verdict = presence.register(self._members, applicant, self.epoch)
        if isinstance(verdict, Taken):
            if verdict.replaces:
                self.leave(self._agents[applicant.name], "it has connected again")
            self._members = verdict.members
            if before is not None and (given_up := before.slot_ids - applicant.slot_ids):
                log.warning("agent %s is back without %s", applicant.name, ", ".join(sorted(given_up)))
                self._drop(given_up, Unavailable(f"agent {applicant.name} is back without this slot"))
        return verdict

    def take_over(self, agent: AgentPort, reports: Iterable[SlotReport]) -> None:
        """Slots of an agent that has registered, as they are. A slot that is not reported yet stays absent."""
        now_s, told = self._pool.now_s(), list(reports)
        self._agents[agent.name] = agent
        sizes = (self._pool.largest_slot_bytes, *(slot.memory_bytes for slot in agent.slots))
        self._pool.largest_slot_bytes = max(sizes)
        facts = {slot.slot_id: slot for slot in agent.slots}
        for report in told:
            self._stop_driving(report.slot_id)
            driver = SlotDriver(facts[report.slot_id], agent, self._pool, self._metrics, self._driver)
            self.drivers[report.slot_id] = driver
        expires_at_s = now_s + self._pool.policy.expires_s
        stray = slot_membership.take_over(
            self._pool,
            {report.slot_id: facts[report.slot_id] for report in told},
            [(reported_slot(report, now_s), served_leases(report, now_s, expires_at_s)) for report in told],
        )
        if stray:
            log.warning("agent %s: %s serve leases that have ended or are held elsewhere: they are ended", agent.name,
                        ", ".join(stray))  # fmt: skip
        assert self._tasks is not None  # `start` comes first
        for report in told:
            self.drivers[report.slot_id].took_over(report)
            self._driving[report.slot_id] = self._tasks.create_task(
                self.drivers[report.slot_id].run(), name=f"driver of {report.slot_id}"
            )
        log.info("agent %s has %s", agent.name, ", ".join(
            f"{report.slot_id} {report.state}{''.join(f' ({grant.lease_id})' for grant in report.grants)}"
            for report in told) or "no slot that is settled yet")  # fmt: skip
        self.arrived.set()
        self._look_after(self.proofs.exchange(agent))

    def close_slots(self, agent: AgentPort, reason: str) -> None:
        """Nothing new goes to this agent; what it does goes on."""
        if self._agents.get(agent.name) is agent:
            slot_membership.set_absent(self._pool, (slot.slot_id for slot in agent.slots), reason)

    def leave(self, agent: AgentPort, reason: str) -> None:
        """The agent cannot be reached any more. A connection that was replaced has nothing to say."""
        if self._agents.get(agent.name) is not agent:
            return
        log.warning("agent %s is away: %s", agent.name, reason)
        del self._agents[agent.name]
        if not self._agents:
            self.arrived.clear()
        self._members = presence.gone(self._members, agent.name, self._pool.now_s())
        for slot in agent.slots:
            self._stop_driving(slot.slot_id)
        slot_membership.set_absent(self._pool, (slot.slot_id for slot in agent.slots), AWAY)

    def tick(self) -> None:
        for name in presence.overdue(self.spec, self._members, self._pool.now_s()):
            log.warning("agent %s has been away for %g s: its engines count as lost", name, self.spec.lost_after_s)
            slot_ids = self._members[name].slot_ids
            self._members = presence.forget(self._members, name)
            why = f"the engine was lost: agent {name} has not answered for {self.spec.lost_after_s:g} s"
            self._drop(slot_ids, Unavailable(why))

    def hear(self, event: EngineEvent) -> None:
        if isinstance(event, SwapProven):
            self._look_after(self.proofs.hear(event.proof, event.agent))
            return
        driver = self.drivers.get(event.slot_id)
        if driver is None:
            return
        if isinstance(event, EngineLost):
            driver.lost(event.incarnation, event.report)
            return
        began = isinstance(event, WorkBegan)
        self._pool.work(event.lease_id, LeaseEvent.WORK_BEGAN if began else LeaseEvent.WORK_ENDED)

    def _drop(self, slot_ids: Iterable[str], error: PilotlightError) -> None:
        slot_membership.drop(self._pool, slot_ids, error)
        for slot_id in slot_ids:
            self.drivers.pop(slot_id, None)

    def _look_after(self, exchange: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None  # `start` comes first
        self._tasks.create_task(exchange, name="proofs")

    def _stop_driving(self, slot_id: str) -> None:
        task = self._driving.pop(slot_id, None)
        if task is not None:
            task.cancel()

    def _free_slots(self, agent: AgentPort) -> int:
        slots = [self._pool.ledger.slots.get(slot.slot_id) for slot in agent.slots]
        return sum(slot is not None and slot.lease_id is None and slot.state is not SlotState.FAILED for slot in slots)
