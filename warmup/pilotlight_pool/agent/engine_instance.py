"""What an agent remembers of a slot: the engine that is awake in it, those that sleep, and what it has granted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent_port import EngineGone, SleeperReport, SlotReport
from pilotlight_pool.engine_orders import EngineOrder, Grant, SlotFacts
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.leases import Isolation
from pilotlight_store import Hold


@dataclass
class EngineInstance:
    """One engine process. `process` is None until it is forked, `endpoint` "" until it serves and once it is lost;
    `busy` is the engine's own word, `generation` counts its swaps."""

    incarnation: int
    order: EngineOrder
    store_hold: Hold | None = field(repr=False)
    process: EngineProcess | None = None
    generation: int = 0
    endpoint: str = ""
    swap_path: str = ""
    tenant: str = ""
    isolation: Isolation = "shared"
    busy: bool = False

    @property
    def living(self) -> EngineProcess:
        if self.process is None:
            raise EngineGone("there is no engine process yet")
        return self.process

    def exchange(self, order: EngineOrder, store_hold: Hold | None) -> None:
        """It holds another model's weights from now on."""
        self.let_go()
        self.order, self.store_hold = order, store_hold

    def let_go(self) -> None:
        """The store may evict its model."""
        if self.store_hold is not None:
            self.store_hold.release()
            self.store_hold = None

    async def end(self) -> None:
        """Gently if it hears it; returns when its memory is free."""
        self.let_go()
        if self.process is not None:
            await self.process.end()


@dataclass
class Granted:
    """`since_s`: monotonic. `adapter_hold`: the store's, for as long as the lease is granted."""

    grant: Grant
    since_s: float
    adapter_hold: Hold | None = field(default=None, repr=False)


@dataclass
class AgentSlot:
    """One slot; `engine` None while it is empty. `booted` numbers its processes, `asleep` has them by that number.
    `grants`: by lease."""

    facts: SlotFacts
    engine: EngineInstance | None = None
    asleep: dict[int, EngineInstance] = field(default_factory=dict)
    booted: int = 0
    grants: dict[str, Granted] = field(default_factory=dict)

    @property
    def awake(self) -> EngineInstance:
        """Raises EngineGone while the slot is empty."""
        if self.engine is None:
            raise EngineGone("there is no engine in this slot")
        return self.engine

    def engines(self) -> tuple[EngineInstance, ...]:
        awake = () if self.engine is None else (self.engine,)
        return (*awake, *self.asleep.values())

    def let_in(self, grant: Grant, adapter_hold: Hold | None) -> None:
        if not grant.beside:
            self.forget_grants()
        self.forget_grant(grant.lease_id)
        self.grants[grant.lease_id] = Granted(grant, time.monotonic(), adapter_hold)

    def forget_grant(self, lease_id: str) -> None:
        granted = self.grants.pop(lease_id, None)
        if granted is not None and granted.adapter_hold is not None:
            granted.adapter_hold.release()

    def forget_grants(self) -> None:
        for lease_id in list(self.grants):
            self.forget_grant(lease_id)

    def report(self) -> SlotReport:
        slot_id, engine = self.facts.slot_id, self.engine
        sleeping = tuple(
            SleeperReport(each.incarnation, each.order, each.tenant, each.isolation) for each in self.asleep.values()
        )
        if engine is None:
            return SlotReport(slot_id, SlotState.EMPTY, self.booted, sleeping=sleeping)
        if not engine.endpoint:
            return SlotReport(slot_id, SlotState.FAILED, engine.incarnation, engine.order, sleeping=sleeping)
        now_s = time.monotonic()
        grants = [msgspec.structs.replace(each.grant, held_s=now_s - each.since_s) for each in self.grants.values()]
        return SlotReport(
            slot_id,
            SlotState.LEASED if grants else SlotState.IDLE,
            engine.incarnation,
            engine.order,
            engine.tenant,
            engine.isolation,
            tuple(grants),
            idle=not engine.busy,
            endpoint=engine.endpoint,
            swap_path=engine.swap_path,
            sleeping=sleeping,
        )
