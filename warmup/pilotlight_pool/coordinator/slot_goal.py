"""What one slot is to become: the engine of the lease that has reserved it, or else the one that is ordered warm.

A lease comes first: it ends a warm order. Only the slot's driver asks and tells. Must not act on an engine.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec

from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.warm_orders import WarmOrder
from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Slot

log = logging.getLogger(__name__)


class SlotGoal:
    """`unwanted`: why nobody wants the engine that is there, "" while somebody may."""

    def __init__(self, slot_id: str, agent_name: str, pool: Pool) -> None:
        self.unwanted = ""
        self._slot_id = slot_id
        self._agent_name = agent_name
        self._pool = pool
        self._warm: WarmOrder | None = None

    def hold(self, warm: WarmOrder) -> None:
        """Hold this model, unless a lease comes first."""
        self._warm = warm

    @property
    def reserved(self) -> LeaseRecord | None:
        lease_id = self._slot.lease_id
        return self._pool.records[lease_id] if lease_id is not None else None

    @property
    def order(self) -> EngineOrder | None:
        """As the slot's agent sees it; None where the slot may stay as it is."""
        slot = self._slot
        if (record := self.reserved) is not None:
            self._warm = None
            return record.order_on(self._agent_name)
        if self._warm is not None and slot.engine is not None and self._warm.is_met_by(slot.engine):
            self._warm = None
        return self._warm.order if self._warm is not None else None

    @property
    def wish(self) -> LeaseWish:
        """Whom the slot is made ready for, where there is an `order`."""
        if (record := self.reserved) is not None:
            return record.wish
        assert self._warm is not None  # `order` had one
        return self._warm.wish

    def boot_instead(self, order: EngineOrder, why: str) -> None:
        log.warning("slot %s: the swap was refused, so an engine is booted: %s", self._slot_id, why)
        boots = msgspec.structs.replace(order, facts=msgspec.structs.replace(order.facts, swappable=False))
        if (record := self._ordered_by(order)) is not None:
            record.on_agents[self._agent_name], record.path = boots.facts, "fork"
        elif self._warm is not None and self._warm.order == order:
            self._warm = replace(self._warm, order=boots)

    def model_changed(self, order: EngineOrder, why: str) -> None:
        """What was asked for is not there any more: whoever wants it asks again, and is told what there is now."""
        log.warning("slot %s: its engine stays as it is: %s", self._slot_id, why)
        if self._ordered_by(order) is not None:
            self._pool.unplace(self._slot_id, LeaseGone(why), again=False)
        self.refused(order)

    def refused(self, order: EngineOrder) -> None:
        """An engine for it cannot be had: a warm order of it is over for good."""
        if self._warm is not None and self._warm.order.facts.kind == order.facts.kind:
            self._pool.warm_orders.refused(self._warm, self._pool.now_s())
        self._warm = None

    def engine_failed(self) -> None:
        """A warm order is given up here; whether and where it is tried again is decided anew."""
        self._warm = None

    def _ordered_by(self, order: EngineOrder) -> LeaseRecord | None:
        record = self.reserved
        return record if record is not None and record.order_on(self._agent_name) == order else None

    @property
    def _slot(self) -> Slot:
        return self._pool.ledger.slots[self._slot_id]
