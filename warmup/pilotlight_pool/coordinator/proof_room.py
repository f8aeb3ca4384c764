"""Empties a slot for a proof of swaps that is due: an engine that idles there would keep it for an hour.

Two models of one fingerprint are booted for one another as long as nobody knows whether they could be swapped; that is
worth one stop of an engine that has had nothing to do for a while, and no more than one in `AGAIN_S`. The agent makes
the proof (`agent/idle_proofs.py`). Must not touch a slot that anybody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.shared_proofs import SharedProofs
from pilotlight_pool.coordinator.slot_driver import SlotDriver
from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState

IDLE_S = 30.0
AGAIN_S = 600.0


class ProofRoom:
    """`look` now and then. `known`: models that were asked for."""

    def __init__(self, pool: Pool, drivers: Mapping[str, SlotDriver], proofs: SharedProofs) -> None:
        self._pool = pool
        self._drivers = drivers
        self._proofs = proofs
        self._not_before_s: dict[str, float] = {}

    def look(self, known: Iterable[EngineOrder]) -> None:
        now_s = self._pool.now_s()
        if self._pool.fair.waiting or any(slot.state is SlotState.EMPTY for slot in self._pool.ledger.slots.values()):
            return
        for orders in self._proofs.unproven(known):
            facts = orders[0].facts
            due = len({order.facts.key for order in orders}) > 1 and not facts.swappable
            if not due or now_s < self._not_before_s.get(facts.fingerprint, 0.0):
                continue
            memory_bytes = max(order.facts.memory_bytes for order in orders)
            if (slot_id := self._idle_slot(memory_bytes, now_s)) is not None:
                self._not_before_s = {key: at_s for key, at_s in self._not_before_s.items() if at_s > now_s}
                self._not_before_s[facts.fingerprint] = now_s + AGAIN_S
                self._drivers[slot_id].stop_idle("a proof of swaps is due")
                return

    def _idle_slot(self, memory_bytes: int, now_s: float) -> str | None:
        """The one that has been idle for the longest."""
        slots = self._pool.ledger.slots
        idle = [
            slot_id
            for slot_id, slot in slots.items()
            if slot.state is SlotState.IDLE
            and slot.lease_id is None
            and now_s - slot.since_s >= IDLE_S
            and self._pool.slots[slot_id].memory_bytes >= memory_bytes
            and slot_id not in self._pool.absent
        ]
        return min(idle, key=lambda slot_id: slots[slot_id].since_s, default=None)
