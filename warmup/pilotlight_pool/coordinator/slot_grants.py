"""Whom a slot's engine lets in, as far as this coordinator has told its agent.

    the slot is made ready for its holder    `let_in`, alone
    leased, a sharer is being placed         `admit`, beside those that are there
    leased, granted to a lease that left     `revoke`
    draining                                 `revoke_all`

Called by the slot's driver alone, one step after the other. Must not choose who shares (dispatch does).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from pilotlight_pool.agent_port import AgentPort, GrantLease, Revoke, SlotReport
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.step_times import StepTimes
from pilotlight_pool.engine_orders import Grant, GrantedAdapter
from pilotlight_pool.policy.leases.isolation import after_serving
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine, Slot
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_protocol.leases import LeaseState

log = logging.getLogger(__name__)


class SlotGrants:
    def __init__(
        self,
        slot_id: str,
        agent: AgentPort,
        pool: Pool,
        metrics: PoolMetrics,
        times: StepTimes,
        revoke_deadline_s: float,
    ) -> None:
        self._slot_id = slot_id
        self._agent = agent
        self._pool = pool
        self._metrics = metrics
        self._times = times
        self._revoke_deadline_s = revoke_deadline_s
        self._granted: tuple[str, ...] = ()

    def took_over(self, report: SlotReport) -> None:
        self._granted = tuple(grant.lease_id for grant in report.grants)

    def next_step(self, slot: Slot) -> Callable[[], Awaitable[None]] | None:
        """Of a leased slot; None while everybody who is to be let in is, and nobody else."""
        left = next((lease_id for lease_id in self._granted if lease_id not in slot.lease_ids), None)
        if left is not None:
            return lambda: self.revoke(left)
        coming = next((lease_id for lease_id in slot.sharers if self._is_placing(lease_id)), None)
        return None if coming is None or slot.engine is None else lambda: self._admit(coming)

    async def let_in(self, wish: LeaseWish, engine: Engine, *, beside: bool = False) -> str | None:
        """Returns the endpoint; None where it was refused for its adapter, and its lease is over. Raises AgentError."""
        record = self._pool.records[wish.lease_id]
        tenant, isolation = after_serving(engine.tenant, engine.isolation, wish)
        adapter = GrantedAdapter(record.order.model.adapter, wish.adapter) if wish.adapter else None
        grant = Grant(
            wish.lease_id, record.secret_sha256, wish.tenant, wish.model_name, wish.priority, wish.isolation,
            beside=beside, adapter=adapter,
        )  # fmt: skip
        try:
            endpoint = await self._agent.do(GrantLease(self._slot_id, grant, tenant, isolation))
        except PilotlightError as error:
            self._refused(record, error)
            return None
        others = tuple(lease_id for lease_id in self._granted if beside and lease_id != wish.lease_id)
        self._granted = (*others, wish.lease_id)
        return endpoint

    def _refused(self, record: LeaseRecord, error: PilotlightError) -> None:
        log.warning("slot %s: the adapter of lease %s: %s", self._slot_id, record.wish.lease_id, error.message)
        if isinstance(error, InvalidInput):
            self._pool.models.refuse(record.order.facts.kinds[-1], error)
        if not self._pool.is_over(record.wish.lease_id):
            self._pool.end(record.wish.lease_id, LeaseEvent.REFUSE, error)

    async def _admit(self, lease_id: str) -> None:
        """One that left meanwhile, or has lost those it was to share with, is found at the next look."""
        engine, record, began_s = self._slot.engine, self._pool.records[lease_id], self._pool.now_s()
        assert engine is not None  # next_step has looked
        endpoint = await self.let_in(record.wish, engine, beside=True)
        if endpoint is not None and self._slot.state is SlotState.LEASED and lease_id in self._slot.sharers:
            now_s = self._pool.now_s()
            self._times.granted(record, record.order.facts, now_s - began_s)
            self._pool.grant_sharer(lease_id, endpoint)
            self._metrics.granted(record, now_s)

    async def revoke_all(self) -> None:
        for lease_id in self._granted:
            await self.revoke(lease_id)

    async def revoke(self, lease_id: str) -> None:
        record = self._pool.records.get(lease_id)
        why = record.error.message if record is not None and record.error is not None else "the lease has ended"
        await self._agent.do(Revoke(self._slot_id, lease_id, why, self._revoke_deadline_s))
        self._granted = tuple(other for other in self._granted if other != lease_id)

    @property
    def _slot(self) -> Slot:
        return self._pool.ledger.slots[self._slot_id]

    def _is_placing(self, lease_id: str) -> bool:
        return self._pool.ledger.leases[lease_id].state is LeaseState.PLACING
