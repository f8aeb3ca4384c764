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

import msgspec

from pilotlight_pool.agent_port import (
    AgentError,
    AgentPort,
    Boot,
    Describe,
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
from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.model_search import why_not_any_more
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.slot_grants import SlotGrants
from pilotlight_pool.coordinator.slot_sleepers import Dormant, SlotSleepers
from pilotlight_pool.coordinator.step_times import StepTimes
from pilotlight_pool.coordinator.warm_orders import WarmOrder
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_pool.policy.leases.isolation import may_reuse
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine, Slot
from pilotlight_pool.policy.leases.slot_lifecycle import LifeCycleViolation, SlotEvent, SlotState
from pilotlight_pool.policy.placement.boot_backoff import SlotFailures
from pilotlight_pool.policy.placement.prediction import seconds_per_byte
from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable

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
        self._failures = SlotFailures(settings.back_off)
        self._times = StepTimes(facts.slot_id, pool, metrics)
        self._grants = SlotGrants(facts.slot_id, agent, pool, metrics, settings.drain_deadline_s)
        self._incarnation = 0
        self.swap_path = ""
        self._lost_early = (0, ExitReport(""))
        self._order: EngineOrder | None = None
        self._sleepers = SlotSleepers(facts, pool)
        self._unwanted = ""
        self._warm: WarmOrder | None = None

    def busy_left_s(self, now_s: float) -> float:
        """Predicted rest of what the slot is doing now, with back-off and zygote where an engine must be forked."""
        left_s = max(0.0, self._times.ends_s - now_s, self._failures.not_before_s - now_s)
        if self._slot.state in {SlotState.EMPTY, SlotState.STOPPING, SlotState.FAILED}:
            return max(left_s, self._agent.zygote_ready_in_s())
        return left_s

    def kick(self) -> None:
        self._wake.set()

    def stop_idle(self, reason: str) -> None:
        """Nobody wants this engine: stop it unless a lease comes first."""
        self._unwanted = reason
        self.kick()

    def warm(self, warm: WarmOrder) -> None:
        """Hold this model, unless a lease comes first."""
        self._warm = warm
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
            self._died(report)
        elif incarnation > self._incarnation:
            self._lost_early = (incarnation, report)

    def _died(self, report: ExitReport) -> None:
        if self._slot.state in {SlotState.EMPTY, SlotState.FAILED, SlotState.STOPPING}:
            return
        self._fail(SlotEvent.DIED, "the engine was lost", report)
        self.kick()

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
                self._died(error.report)
            except LifeCycleViolation as violation:
                log.info("slot %s: came too late: %s", self._slot_id, violation)
            finally:
                self._times.end()

    @property
    def _slot(self) -> Slot:
        return self._pool.ledger.slots[self._slot_id]

    def _next_step(self) -> Callable[[], Awaitable[None]] | None:
        slot = self._slot
        record, free = self._reserved(), slot.state in {SlotState.EMPTY, SlotState.IDLE}
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
                self._unwanted = ""
                order = self._wanted_order(slot)
                return None if order is None else self._from_empty(slot, order)
        return None

    def _from_empty(self, slot: Slot, order: EngineOrder) -> Callable[[], Awaitable[None]]:
        dormant = self._to_wake(slot, order)
        return (lambda: self._boot(order)) if dormant is None else (lambda: self._wake_up(dormant))

    def _to_wake(self, slot: Slot, order: EngineOrder) -> Dormant | None:
        wish = replace(self._wish(slot), fingerprint=order.facts.fingerprint)
        return self._sleepers.to_wake(wish, swappable=order.facts.swappable)

    def _from_idle(self, slot: Slot) -> Callable[[], Awaitable[None]] | None:
        order, engine = self._wanted_order(slot), slot.engine
        assert engine is not None  # the ledger's promise for every state but empty
        if order is None:
            return self._make_way if self._unwanted else None
        self._unwanted = ""
        wish = self._wish(slot)
        if engine.fingerprint == order.facts.fingerprint and may_reuse(engine.tenant, engine.isolation, wish):
            if engine.model == order.facts.key:
                return lambda: self._grant(wish, order)
            if order.facts.swappable:
                return lambda: self._swap(order, engine)
        return self._make_way

    def _wanted_order(self, slot: Slot) -> EngineOrder | None:
        if slot.lease_id is not None:
            self._warm = None
            return self._pool.records[slot.lease_id].order_on(self.agent_name)
        if self._warm is not None and slot.engine is not None and self._warm.is_met_by(slot.engine):
            self._warm = None
        return self._warm.order if self._warm is not None else None

    def _wish(self, slot: Slot) -> LeaseWish:
        """Whom the slot is made ready for."""
        if slot.lease_id is not None:
            return self._pool.ledger.leases[slot.lease_id].wish
        assert self._warm is not None  # _wanted_order had one
        return self._warm.wish

    async def _fetch(self, record: LeaseRecord) -> None:
        facts = record.order.facts
        self._times.begin(
            facts.weights_bytes * seconds_per_byte(self._pool.policy.prediction, self._pool.predictions, "remote")
        )
        why = "the model there is another one"
        try:
            async with asyncio.timeout(self._settings.boot_deadline_s):
                found = await self._agent.do(Describe(record.order.model))
            record.on_agents[self.agent_name] = found if found.key == facts.key else None
        except (PilotlightError, TimeoutError) as error:
            why = error.message if isinstance(error, PilotlightError) else "it was not fetched in time"
            record.on_agents[self.agent_name] = None
        if record.on_agents[self.agent_name] is None:
            log.warning("slot %s: %s cannot be served here: %s", self._slot_id, record.order.model.uri, why)
        if record is self._reserved() and not record.order_on(self.agent_name):
            self._pool.unplace(self._slot_id, Unavailable(f"{self.agent_name}: {record.order.model.uri}: {why}"))

    async def _boot(self, order: EngineOrder) -> None:
        step = self._times.expect("fork", order, self._agent.zygote_ready_in_s())
        self._pool.begin(self._slot_id, SlotEvent.BOOT, order, self._wish(self._slot))
        try:
            ready = await self._agent.do(Boot(self._slot_id, order, self._settings.boot_deadline_s))
        except EngineRefused as error:
            self._refuse(order, str(error))
            return
        except PilotlightError as error:
            log.warning("slot %s: %s", self._slot_id, error.message)
            self._warm_order_ends(order)
            self._pool.engine_lost(self._slot_id, SlotEvent.DIED, LeaseGone(error.message), again=False)
            return
        self._incarnation, self._order, self.swap_path = ready.incarnation, order, ready.swap_path
        if self._lost_early[0] == ready.incarnation:
            raise EngineGone(self._lost_early[1])
        self._pool.slot_event(self._slot_id, SlotEvent.BOOTED)
        self._times.took(step, ready, self._reserved())

    async def _swap(self, order: EngineOrder, before: Engine) -> None:
        step = self._times.expect("swap", order)
        self._pool.begin(self._slot_id, SlotEvent.SWAP, order, self._wish(self._slot))
        try:
            ready = await self._agent.do(Swap(self._slot_id, order, self._settings.swap_deadline_s))
        except SwapFailed as error:
            self._metrics.swap_failed()
            self._fail(SlotEvent.SWAP_FAILED, "the swap failed", error.report)
            return
        except SwapRefused as error:
            self._pool.swap_refused(self._slot_id, before)
            self._boot_instead(order, str(error))
            return
        except PilotlightError as error:
            self._pool.swap_refused(self._slot_id, before)
            self._model_changed(order, error.message)
            return
        self._order = order
        self._pool.slot_event(self._slot_id, SlotEvent.SWAPPED)
        self._times.took(step, ready, self._reserved())

    async def _grant(self, wish: LeaseWish, order: EngineOrder) -> None:
        engine = self._slot.engine
        assert engine is not None
        record = self._pool.records[wish.lease_id]
        began_s = self._pool.now_s()
        endpoint = await self._grants.let_in(wish, engine)
        if self._slot.state is not SlotState.IDLE:
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

    def _boot_instead(self, order: EngineOrder, why: str) -> None:
        log.warning("slot %s: the swap was refused, so an engine is booted: %s", self._slot_id, why)
        boots = msgspec.structs.replace(order, facts=msgspec.structs.replace(order.facts, swappable=False))
        record = self._reserved()
        if record is not None and record.order_on(self.agent_name) == order:
            record.on_agents[self.agent_name], record.path = boots.facts, "fork"
        elif self._warm is not None and self._warm.order == order:
            self._warm = replace(self._warm, order=boots)

    def _model_changed(self, order: EngineOrder, why: str) -> None:
        """What was asked for is not there any more: whoever wants it asks again, and is told what there is now."""
        log.warning("slot %s: its engine stays as it is: %s", self._slot_id, why)
        record = self._reserved()
        if record is not None and record.order_on(self.agent_name) == order:
            self._pool.unplace(self._slot_id, LeaseGone(why), again=False)
        self._warm_order_ends(order)

    def _warm_order_ends(self, order: EngineOrder) -> None:
        if self._warm is not None and self._warm.order.facts.kind == order.facts.kind:
            self._pool.warm_orders.refused(self._warm, self._pool.now_s())
        self._warm = None

    async def _make_way(self) -> None:
        wanted = self._wanted_order(self._slot)
        if wanted is not None and (why := await why_not_any_more(self._agent, wanted)):
            self._model_changed(wanted, why)
            return
        slot = self._slot
        if slot.state is not SlotState.IDLE or self._wanted_order(slot) != wanted:
            return
        sleeps = self._room_to_sleep() is not None
        model = slot.engine.model[:12] if slot.engine is not None else ""
        why = f"{slot.lease_id} needs another" if slot.lease_id is not None else self._unwanted or "a prewarm"
        becomes = "put to sleep" if sleeps else "stopped"
        log.info("slot %s: its engine with %s is %s: %s", self._slot_id, model, becomes, why)
        self._metrics.evicted("lease" if slot.lease_id is not None else "keep-alive")
        self._pool.slot_event(self._slot_id, SlotEvent.SLEEP if sleeps else SlotEvent.STOP)

    def _room_to_sleep(self) -> tuple[int, ...] | None:
        dormant, order = self._this(), self._wanted_order(self._slot)
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
        self._times.took(step, ready, self._reserved())

    async def _stop(self) -> None:
        self._times.begin(self._pool.policy.eviction.placement.stop_s)
        began_s = self._pool.now_s()
        await self._agent.do(Stop(self._slot_id))
        self._pool.slot_event(self._slot_id, SlotEvent.STOPPED)
        record = self._reserved()
        if record is not None:
            record.phases_s["stop"] = self._pool.now_s() - began_s

    async def _clear_failed(self) -> None:
        delay_s = self._failures.not_before_s - self._pool.now_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        self._pool.slot_event(self._slot_id, SlotEvent.STOP)

    def _fail(self, event: SlotEvent, what: str, report: ExitReport) -> None:
        engine = self._slot.engine
        self._failures.failed(engine.model if engine is not None else "", self._pool.now_s())
        if engine is not None:
            self._pool.model_failed(engine.model)
        self._warm = None
        self._metrics.engine_failed()
        log.warning(
            "slot %s: %s (failure %d in a row): %s", self._slot_id, what, self._failures.count, report.for_log()
        )
        self._pool.engine_lost(self._slot_id, event, Unavailable(f"{what}: {report}"), again=True)

    def _refuse(self, order: EngineOrder, reason: str) -> None:
        """The engine's arguments or the model are wrong: another try would end the same way."""
        log.warning("slot %s: the engine refuses its configuration: %s", self._slot_id, reason)
        self._warm_order_ends(order)
        error = InvalidInput(reason)
        self._pool.refuse_kind(order.facts.kind, error)
        self._pool.engine_lost(self._slot_id, SlotEvent.DIED, error, again=False)

    def _reserved(self) -> LeaseRecord | None:
        lease_id = self._slot.lease_id
        return self._pool.records[lease_id] if lease_id is not None else None
