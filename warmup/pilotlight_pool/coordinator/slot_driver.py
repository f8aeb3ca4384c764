"""One task per slot: looks at what the slot is and what its lease needs, does the next step, and looks again.

    slot                                       next step
    failed                                     stop what is left, after a back-off where several models failed
    draining                                   revoke the leases that ended
    leased                                     let sharers in, revoke those that left (slot_grants)
    reserved, the model not on this node yet   fetch it
    idle, reserved, engine and tenant right    grant
    idle, reserved, swap possible              swap
    idle, reserved, anything else              sleep or stop, then one of the two below
    idle, nobody's, no longer wanted           sleep or stop
    idle or empty, ordered warm                as if reserved, and stay idle
    empty, wanted, one that fits sleeps here   wake (and swap)
    empty, wanted                              boot

Level-triggered: a reservation that disappears or changes during a step is seen at the next look. The only caller of an
agent's commands for its slot, so that they never overlap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from pilotlight_pool.agent_port import (
    AgentError,
    AgentPort,
    Boot,
    Discard,
    EngineGone,
    EngineRefused,
    ExitReport,
    Sleep,
    SlotReport,
    Stop,
    Swap,
    SwapFailed,
    SwapRefused,
    Wake,
)
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.engine_failures import EngineFailures
from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.model_search import fetched, why_not_any_more
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.slot_goal import SlotGoal
from pilotlight_pool.coordinator.slot_grants import SlotGrants
from pilotlight_pool.coordinator.slot_sleepers import Dormant, SlotSleepers
from pilotlight_pool.coordinator.step_times import StepTimes
from pilotlight_pool.coordinator.warm_orders import WarmOrder
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_pool.policy.leases.isolation import may_reuse
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine, Slot
from pilotlight_pool.policy.leases.slot_lifecycle import LifeCycleViolation, SlotEvent, SlotState
from pilotlight_protocol.errors import PilotlightError, Unavailable

log = logging.getLogger(__name__)


class SlotDriver:
    """`run` until cancelled; `kick` after anything that may concern this slot."""

    def __init__(
        self, facts: SlotFacts, agent: AgentPort, pool: Pool, metrics: PoolMetrics, settings: DriverSettings
    ) -> None:
        self.agent_name = agent.name
        self._slot_id = facts.slot_id
        self._agent = agent
        self._pool = pool
        self._metrics = metrics
        self._settings = settings
        self._wake = asyncio.Event()
        self._times = StepTimes(facts.slot_id, pool, metrics)
        self._grants = SlotGrants(facts.slot_id, agent, pool, metrics, self._times, settings.drain_deadline_s)
        self._incarnation = 0
        self.swap_path = ""
        self._lost_early = (0, ExitReport(""))
        self._order: EngineOrder | None = None
        self._sleepers = SlotSleepers(facts, pool)
        self._goal = SlotGoal(facts.slot_id, agent.name, pool)
        self._failures = EngineFailures(facts.slot_id, pool, self._goal, metrics, settings.back_off)

    def busy_left_s(self, now_s: float) -> float:
        """Predicted rest of what the slot is doing now, with back-off and zygote where an engine must be forked."""
        left_s = max(self._times.ends_s - now_s, self._failures.left_s)
        if self._slot.state in {SlotState.EMPTY, SlotState.STOPPING, SlotState.FAILED}:
            return max(left_s, self._agent.zygote_ready_in_s())
        return left_s

    def kick(self) -> None:
        self._wake.set()

    def stop_idle(self, reason: str) -> None:
        """Nobody wants this engine: stop it unless a lease comes first."""
        self._goal.unwanted = reason
        self.kick()

    def warm(self, warm: WarmOrder) -> None:
        """Hold this model, unless a lease comes first."""
        self._goal.hold(warm)
        self.kick()

    def took_over(self, report: SlotReport) -> None:
        """What the slot runs, what the agent granted and what sleeps, from before this coordinator knew of it."""
        self._grants.took_over(report)
        self._incarnation, self._order, self.swap_path = report.incarnation, report.engine, report.swap_path
        self._sleepers.took_over(report.sleeping)

    def lost(self, incarnation: int, report: ExitReport) -> None:
        """The agent says that an engine process is gone; news about an earlier one are dropped, and those about one
        whose boot has not been heard of yet are kept for that."""
        if self._sleepers.discard(incarnation):
            log.warning("slot %s: a sleeping engine was lost: %s", self._slot_id, report.for_log())
        elif incarnation == self._incarnation:
            self._failures.died(report)
        elif incarnation > self._incarnation:
            self._lost_early = (incarnation, report)

    async def run(self) -> None:
        while True:
            self._wake.clear()
            step = self._next_step()
            if step is None:
                await self._wake.wait()
                continue
            try:
                await step()
            except AgentError as error:
                self._failures.died(error.report)
            except LifeCycleViolation as violation:
                log.info("slot %s: came too late: %s", self._slot_id, violation)
            finally:
                self._times.end()

    @property
    def _slot(self) -> Slot:
        return self._pool.ledger.slots[self._slot_id]

    def _next_step(self) -> Callable[[], Awaitable[None]] | None:
        slot = self._slot
        record, free = self._goal.reserved, slot.state in {SlotState.EMPTY, SlotState.IDLE}
        if free and record is not None and not record.order_on(self.agent_name):
            return lambda: self._fetch(record)
        match slot.state:
            case SlotState.FAILED:
                return self._clear_failed
            case SlotState.DRAINING:
                return self._drain
            case SlotState.LEASED:
                return self._grants.next_step(slot)
            case SlotState.STOPPING:
                return self._stop
            case SlotState.FALLING_ASLEEP:
                return self._sleep
            case SlotState.IDLE:
                return self._from_idle(slot)
            case SlotState.EMPTY:
                self._goal.unwanted = ""
                order = self._goal.order
                return None if order is None else self._from_empty(slot, order)
        return None

    def _from_empty(self, slot: Slot, order: EngineOrder) -> Callable[[], Awaitable[None]]:
        dormant = self._to_wake(slot, order)
        return (lambda: self._boot(order)) if dormant is None else (lambda: self._wake_up(dormant))

    def _to_wake(self, slot: Slot, order: EngineOrder) -> Dormant | None:
        wish = replace(self._goal.wish, fingerprint=order.facts.fingerprint)
        return self._sleepers.to_wake(wish, swappable=order.facts.swappable)

    def _from_idle(self, slot: Slot) -> Callable[[], Awaitable[None]] | None:
        order, engine = self._goal.order, slot.engine
        assert engine is not None  # the ledger's promise for every state but empty
        if order is None:
            return self._make_way if self._goal.unwanted else None
        self._goal.unwanted = ""
        wish = self._goal.wish
        if engine.fingerprint == order.facts.fingerprint and may_reuse(engine.tenant, engine.isolation, wish):
            if engine.model == order.facts.key:
                return lambda: self._grant(wish, order)
            if order.facts.swappable:
                return lambda: self._swap(order, engine)
        return self._make_way

    async def _fetch(self, record: LeaseRecord) -> None:
        uri = record.order.model.uri
        self._times.begin(self._pool.models.predicted_fetch_s(record.order.facts))
        found, why = await fetched(self._agent, record.order, self._settings.boot_deadline_s)
        record.on_agents[self.agent_name] = found
        if found is None:
            log.warning("slot %s: %s cannot be served here: %s", self._slot_id, uri, why)
        if record is self._goal.reserved and found is None:
            self._pool.unplace(self._slot_id, Unavailable(f"{self.agent_name}: {uri}: {why}"))

    async def _boot(self, order: EngineOrder) -> None:
        step = self._times.expect("fork", order, self._agent.zygote_ready_in_s())
        self._pool.begin(self._slot_id, SlotEvent.BOOT, order, self._goal.wish)
        try:
            ready = await self._agent.do(Boot(self._slot_id, order, self._settings.boot_deadline_s))
        except EngineRefused as error:
            self._failures.refused(order, str(error))
            return
        except PilotlightError as error:
            log.warning("slot %s: %s", self._slot_id, error.message)
            self._goal.refused(order)
            self._pool.engine_lost(self._slot_id, SlotEvent.DIED, LeaseGone(error.message), again=False)
            return
        self._incarnation, self._order, self.swap_path = ready.incarnation, order, ready.swap_path
        if self._lost_early[0] == ready.incarnation:
            raise EngineGone(self._lost_early[1])
        self._pool.slot_event(self._slot_id, SlotEvent.BOOTED)
        self._times.took(step, ready, self._goal.reserved)

    async def _swap(self, order: EngineOrder, before: Engine) -> None:
        step = self._times.expect("swap", order)
        self._pool.begin(self._slot_id, SlotEvent.SWAP, order, self._goal.wish)
        try:
            ready = await self._agent.do(Swap(self._slot_id, order, self._settings.swap_deadline_s))
        except SwapFailed as error:
            self._metrics.swap_failed()
            self._failures.failed(SlotEvent.SWAP_FAILED, "the swap failed", error.report)
            return
        except SwapRefused as error:
            self._pool.swap_refused(self._slot_id, before)
            self._goal.boot_instead(order, str(error))
            return
        except PilotlightError as error:
            self._pool.swap_refused(self._slot_id, before)
            self._goal.model_changed(order, error.message)
            return
        self._order = order
        self._pool.slot_event(self._slot_id, SlotEvent.SWAPPED)
        self._times.took(step, ready, self._goal.reserved)

    async def _grant(self, wish: LeaseWish, order: EngineOrder) -> None:
        engine = self._slot.engine
        assert engine is not None
        record = self._pool.records[wish.lease_id]
        began_s = self._pool.now_s()
        endpoint = await self._grants.let_in(wish, engine)
        if endpoint is None or self._slot.state is not SlotState.IDLE:
            return
        if self._slot.lease_id != wish.lease_id:
            await self._grants.revoke(wish.lease_id)
            return
        now_s = self._pool.now_s()
        self._times.granted(record, order.facts, now_s - began_s)
        self._failures.worked()
        self._pool.grant(self._slot_id, endpoint, order.facts.fingerprint)
        self._metrics.granted(record, now_s)

    async def _drain(self) -> None:
        self._times.begin(self._pool.policy.eviction.placement.drain_s)
        await self._grants.revoke_all()
        if self._slot.state is SlotState.DRAINING:
            self._pool.slot_event(self._slot_id, SlotEvent.DRAINED)

    async def _make_way(self) -> None:
        wanted = self._goal.order
        if wanted is not None and (why := await why_not_any_more(self._agent, wanted)):
            self._goal.model_changed(wanted, why)
            return
        slot = self._slot
        if slot.state is not SlotState.IDLE or self._goal.order != wanted:
            return
        sleeps = self._room_to_sleep() is not None
        model = slot.engine.model[:12] if slot.engine is not None else ""
        why = f"{slot.lease_id} needs another" if slot.lease_id is not None else self._goal.unwanted or "a prewarm"
        becomes = "put to sleep" if sleeps else "stopped"
        log.info("slot %s: its engine with %s is %s: %s", self._slot_id, model, becomes, why)
        self._metrics.evicted("lease" if slot.lease_id is not None else "keep-alive")
        self._pool.slot_event(self._slot_id, SlotEvent.SLEEP if sleeps else SlotEvent.STOP)

    def _room_to_sleep(self) -> tuple[int, ...] | None:
        dormant, order = self._this(), self._goal.order
        next_awake = self._to_wake(self._slot, order) if order is not None else None
        return self._sleepers.room_for(dormant, next_awake) if dormant is not None else None

    def _this(self) -> Dormant | None:
        engine, order = self._slot.engine, self._order
        return Dormant(self._incarnation, engine, order) if engine is not None and order is not None else None

    async def _sleep(self) -> None:
        self._times.begin(self._pool.policy.eviction.placement.stop_s)
        dormant = self._this()
        assert dormant is not None  # _make_way has looked
        for incarnation in self._room_to_sleep() or ():
            self._sleepers.discard(incarnation)
            await self._agent.do(Discard(self._slot_id, incarnation))
        await self._agent.do(Sleep(self._slot_id, self._settings.sleep_deadline_s))
        if self._slot.state is SlotState.FALLING_ASLEEP:
            self._sleepers.fell_asleep(dormant)
            self._pool.slot_event(self._slot_id, SlotEvent.SLEPT)

    async def _wake_up(self, dormant: Dormant) -> None:
        step = self._times.expect("wake", dormant.order)
        self._sleepers.woke(dormant)
        self._pool.begin_wake(self._slot_id, dormant.engine)
        self._incarnation, self._order = dormant.incarnation, dormant.order
        ready = await self._agent.do(Wake(self._slot_id, dormant.incarnation, self._settings.sleep_deadline_s))
        self._pool.slot_event(self._slot_id, SlotEvent.WOKEN)
        self._times.took(step, ready, self._goal.reserved)

    async def _stop(self) -> None:
        self._times.begin(self._pool.policy.eviction.placement.stop_s)
        began_s = self._pool.now_s()
        await self._agent.do(Stop(self._slot_id))
        self._pool.slot_event(self._slot_id, SlotEvent.STOPPED)
        record = self._goal.reserved
        if record is not None:
            record.phases_s["stop"] = self._pool.now_s() - began_s

    async def _clear_failed(self) -> None:
        if (left_s := self._failures.left_s) > 0:
            await asyncio.sleep(left_s)
        self._pool.slot_event(self._slot_id, SlotEvent.STOP)
