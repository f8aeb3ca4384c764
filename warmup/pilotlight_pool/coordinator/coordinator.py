"""Puts the coordinator together and owns its tasks: one dispatcher, one ticker; the registry's drivers run beside them.

Everything happens in one event loop and every step on the pool is synchronous, so there are no locks. A task that
fails ends `run`, and with it the process: engines end with their agent, and whoever supervises starts afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from pilotlight_pool.agent_port import AgentPort, Prove
from pilotlight_pool.coordinator.agent_registry import AgentRegistry
from pilotlight_pool.coordinator.dispatch import Dispatch
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.keep_alive_controller import KeepAliveController, LoadAhead
from pilotlight_pool.coordinator.lease_service import LeaseService
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.model_search import Found, find
from pilotlight_pool.coordinator.pool import Pool, PoolPolicy
from pilotlight_pool.coordinator.slot_times import SlotTimes
from pilotlight_pool.coordinator.warm_orders import WarmKey, WarmOrder
from pilotlight_pool.engine_orders import EngineOrder, ModelOrder
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.leases import access
from pilotlight_pool.policy.leases.access import Caller
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.presence import Applicant, PresenceSpec, Taken
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.leases import (
    Isolation,
    LeaseLine,
    LeaseState,
    ModelLine,
    PrewarmRequest,
    ProofLine,
    ProofRequest,
    ProofsAnswer,
    SlotLine,
    SlotTimesAnswer,
    proof_line,
)

log = logging.getLogger(__name__)
_UNUSED_S = 1.0
_SWEEP_EVERY = 50
_KNOWN_MODELS = 1024


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """`settle_s`: for so long after the start a lease that nobody knows may be one whose agent has yet to register, and
    a model that is too large may fit such an agent's slot. `agent_grace_s`: how long a request waits for a first agent.
    `tick_s`: how often what changes with time alone is looked at.
    """

    policy: PoolPolicy = field(default_factory=PoolPolicy)
    driver: DriverSettings = field(default_factory=DriverSettings)
    keep_alive: KeepAliveSpec = field(default_factory=KeepAliveSpec)
    isolation: Isolation = "shared"
    presence: PresenceSpec = field(default_factory=PresenceSpec)
    settle_s: float = 0.0
    agent_grace_s: float = 10.0
    tick_s: float = 0.2


class Coordinator:
    """`attach` agents, then `run` until cancelled. `lease_service` is the holders' side."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self.pool = Pool(settings.policy, clock)
        self.metrics = PoolMetrics(self.pool)
        self.registry = AgentRegistry(
            self.pool, self.metrics, settings.driver, settings.presence, int(unix_clock() * 1000)
        )
        settled_at_s = clock() + settings.settle_s
        self.lease_service = LeaseService(self.pool, self.describe, self.metrics, settings.isolation, settled_at_s)
        self._known: dict[tuple[str, str], EngineOrder] = {}
        self._dispatch = Dispatch(self.pool, self.registry.drivers, settled_at_s)
        self._keep_alive = KeepAliveController(self.pool, self._dispatch, settings.keep_alive, unix_clock)
        self._wake = asyncio.Event()
        self._changed_slots: dict[str, None] = {}
        self.pool.on_change.append(self._on_change)
        self._slot_times = SlotTimes(self.pool)
        self._epoch = f"{int(unix_clock() * 1000):x}-{secrets.token_hex(4)}"

    async def run(self, agents: list[AgentPort]) -> None:
        async with asyncio.TaskGroup() as tasks:
            self.registry.start(tasks)
            for agent in agents:
                await self.attach(agent)
            tasks.create_task(self._dispatching(), name="dispatch")
            tasks.create_task(self._ticking(), name="ticker")

    async def attach(self, agent: AgentPort) -> None:
        """Take over the slots of an agent of this process as they are."""
        verdict = self.registry.register(Applicant(agent.name, "", frozenset(slot.slot_id for slot in agent.slots)))
        assert isinstance(verdict, Taken), verdict  # nobody else has its name
        agent.listen(self.registry.hear)
        self.registry.take_over(agent, await agent.report())

    async def drain(self, deadline_s: float) -> None:
        """Take no more leases; return when none holds a slot any more, or after the deadline."""
        self.lease_service.close()
        changed = asyncio.Event()
        self.pool.on_change.append(lambda slot_ids: changed.set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while any(slot.lease_id is not None for slot in self.pool.ledger.slots.values()):
                    await changed.wait()
                    changed.clear()

    async def describe(self, order: ModelOrder) -> Found:
        """Waits a while for a first agent. Raises PilotlightError."""
        try:
            async with asyncio.timeout(self._settings.agent_grace_s):
                await self.registry.arrived.wait()
        except TimeoutError:
            raise Unavailable("no agent has registered with this coordinator", retry_after_s=5.0) from None
        found = await find(self.registry.agents(), order)
        self._known[found.facts.kind] = EngineOrder(order, found.facts, "")
        if len(self._known) > _KNOWN_MODELS:
            del self._known[next(iter(self._known))]
        return found

    async def prewarm(self, asked: PrewarmRequest, caller: Caller) -> ModelLine:
        """A tenant hears of its own orders alone, and not of slots. Raises what `WarmOrders` and `describe` raise, and
        Forbidden as `LeaseService.request` does."""
        tenant = access.tenant_of(caller, asked.tenant)
        model = ModelOrder(asked.model, asked.engine_args, asked.quantization, asked.loras, asked.adapter)
        access.check_order(caller, [*model.uris, *(path for _, path in asked.loras)], asked.engine_args)
        order = EngineOrder(model, (await self.describe(model)).facts, asked.model_name)
        if (refusal := self.pool.models.refusal_of(order.facts)) is not None:
            raise refusal
        warm = WarmOrder(order, tenant, asked.isolation or self._settings.isolation)
        if asked.schedule is not None:
            self.pool.warm_orders.schedule(warm, asked.schedule)
        else:
            self.pool.warm_orders.hold(warm, self.pool.now_s() + asked.hold_s)
        self.keep_warm()
        line = self._model_line(order, [warm.key])
        return line if caller.operator else msgspec.structs.replace(line, loaded_in=())

    async def prove(self, asked: ProofRequest) -> ProofLine:
        """Raises what `describe` and `Prove` raise; InvalidInput for models that no engine could be swapped between."""
        orders = [ModelOrder(uri, asked.engine_args, asked.quantization) for uri in asked.models]
        found = [await self.describe(order) for order in orders]
        a, b = (EngineOrder(order, each.facts, order.uri) for order, each in zip(orders, found, strict=True))
        if a.facts.combination is None or a.facts.fingerprint != b.facts.fingerprint:
            raise InvalidInput("a proof takes two models of one architecture that are served without adapters")
        agent = self.registry.agents()[0]
        slots = [self.pool.ledger.slots[facts.slot_id] for facts in agent.slots]
        idle = [slot.slot_id for slot in slots if slot.state is SlotState.IDLE and slot.lease_id is None]
        if idle and not any(slot.state is SlotState.EMPTY for slot in slots):
            # It gives way, as it would to a lease for another model.
            self.registry.drivers[idle[0]].stop_idle("a proof of swaps was asked for")
        return proof_line(await agent.do(Prove(a, b, asked.wait_s)))

    def proofs(self) -> ProofsAnswer:
        return self.registry.proofs.answer(self._known.values())

    def leases(self) -> list[LeaseLine]:
        now_s = self.pool.now_s()
        lines: list[LeaseLine] = []
        for lease_id, lease in self.pool.ledger.leases.items():
            record, wish = self.pool.records[lease_id], lease.wish
            lines.append(
                LeaseLine(
                    lease_id, wish.tenant, wish.model, record.order.model_name, wish.priority,
                    wish.isolation, lease.state, now_s - record.asked_s, lease.slot_id,
                    record.path, record.eta_s, record.reasons,
                )
            )  # fmt: skip
        return lines

    def slots(self) -> list[SlotLine]:
        now_s = self.pool.now_s()
        lines: list[SlotLine] = []
        for slot_id, slot in self.pool.ledger.slots.items():
            facts, engine, driver = self.pool.slots[slot_id], slot.engine, self.registry.drivers[slot_id]
            lines.append(
                SlotLine(
                    slot_id, driver.agent_name, facts.device, facts.memory_bytes, facts.cpus, slot.state,
                    now_s - slot.since_s, engine.model if engine else None, engine.fingerprint if engine else None,
                    engine.tenant if engine else None, slot.lease_id, driver.busy_left_s(now_s),
                    tuple(sleeper.model for sleeper in slot.sleeping), self.pool.absent.get(slot_id, ""),
                    driver.swap_path if engine else "",
                )
            )  # fmt: skip
        return lines

    def slot_times(self, caller: Caller) -> SlotTimesAnswer:
        """A tenant's own, or the operator's of all."""
        return SlotTimesAnswer(self._epoch, tuple(each for each in self._slot_times.told() if caller.owns(each.tenant)))

    def models(self) -> list[ModelLine]:
        return [self._model_line(order, self.pool.warm_orders.of_kind(kind)) for kind, order in self._known.items()]

    def _model_line(self, order: EngineOrder, warm: Sequence[WarmKey]) -> ModelLine:
        facts, slots = order.facts, self.pool.ledger.slots.values()
        orders = self.pool.warm_orders
        until_s = max((until_s for key in warm if (until_s := orders.held_until_s(key)) is not None), default=None)
        return ModelLine(
            order.model.uri, facts.key, facts.fingerprint, facts.quantization, facts.weights_bytes, facts.tier,
            facts.swappable,
            tuple(slot.slot_id for slot in slots if slot.engine is not None and slot.engine.kind == facts.kind),
            until_s - self.pool.now_s() if until_s is not None else None,
            "; ".join(dict.fromkeys(text for key in warm if (text := orders.schedule_of(key)))),
        )  # fmt: skip

    def _on_change(self, slot_ids: Sequence[str]) -> None:
        """Must cost the same however many slots there are: it is called whenever a lease's work begins or ends."""
        for slot_id in slot_ids:
            self._changed_slots[slot_id] = None
            if (driver := self.registry.drivers.get(slot_id)) is not None:
                driver.kick()
        if slot_ids or self.pool.fair.waiting:
            self._wake.set()

    async def _dispatching(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._dispatch.run()
            changed, self._changed_slots = self._changed_slots, {}
            self._keep_alive.observe(changed)

    async def _ticking(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(self._settings.tick_s)
            for lease_id in self.pool.expire():
                self.metrics.ended("expired")
                log.info("lease %s expired: its holder was silent for %g s", lease_id, self.pool.policy.expires_s)
            self.registry.tick()
            self._refuse_late()
            self.find_unused()
            self.keep_warm()
            # Predictions change with time alone: look again at those who wait.
            if self.pool.fair.waiting:
                self._wake.set()
            ticks += 1
            if ticks % _SWEEP_EVERY == 0:
                self.pool.sweep()

    def _refuse_late(self) -> None:
        now_s = self.pool.now_s()
        for lease_id, lease in list(self.pool.ledger.leases.items()):
            if lease.state not in {LeaseState.QUEUED, LeaseState.PLACING} or lease.wish.deadline_at_s is None:
                continue
            if now_s >= lease.wish.deadline_at_s:
                reasons = "; ".join(self.pool.records[lease_id].reasons)
                log.info("lease %s is refused: its deadline passed while it was %s", lease_id, lease.state)
                self.metrics.ended("late")
                why = f"the deadline passed while the lease was {lease.state}: {reasons}"
                retry_after_s = max(1.0, self.pool.records[lease_id].eta_s or 1.0)
                self.pool.end(lease_id, LeaseEvent.REFUSE, Unavailable(why, retry_after_s=retry_after_s))

    def find_unused(self) -> None:
        """A lease without any work since it was granted is as idle as one whose work has ended."""
        now_s = self.pool.now_s()
        for lease_id, lease in list(self.pool.ledger.leases.items()):
            record = self.pool.records[lease_id]
            if lease.state is LeaseState.ACTIVE and not record.worked and now_s - record.granted_s > _UNUSED_S:
                self.pool.work(lease_id, LeaseEvent.WORK_ENDED)

    def keep_warm(self) -> None:
        """Stop what is not worth keeping and load what is worth having; the ticker calls it."""
        for wish in self._keep_alive.decide():
            driver = self.registry.drivers[wish.slot_id]
            if isinstance(wish, LoadAhead):
                log.info("slot %s: %s is loaded ahead (%s)", wish.slot_id, wish.warm.order.facts.key[:12], wish.reason)
                self.metrics.prewarmed()
                driver.warm(wish.warm)
            else:
                driver.stop_idle(wish.reason)
