"""For how long each tenant has held slots, by the names of its leases: what slots cost is charged by.

A slot counts from when it is reserved for a lease until its last one leaves; those that share it have equal parts. It
hears of changes from the pool, and must not change anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_pool.coordinator.pool import Pool
from pilotlight_protocol.leases import SlotTime

MOST_HOLDERS = 16_384
Holder = tuple[str, str]
"""Tenant, and what it calls the model."""


@dataclass(frozen=True, slots=True)
class _Held:
    since_s: float
    holders: tuple[Holder, ...]


class SlotTimes:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held: dict[str, _Held] = {}
        self._slot_s: dict[Holder, float] = {}
        pool.on_change.append(self._changed)

    def told(self) -> tuple[SlotTime, ...]:
        """Up to now."""
        self._changed(tuple(self._held))
        return tuple(SlotTime(tenant, name, slot_s) for (tenant, name), slot_s in self._slot_s.items())

    def _changed(self, slot_ids: Sequence[str]) -> None:
        now_s, ledger = self._pool.now_s(), self._pool.ledger
        for slot_id in slot_ids:
            held = self._held.pop(slot_id, None)
            if held is not None:
                self._charge(held, now_s)
            slot = ledger.slots.get(slot_id)
            if slot is not None and slot.lease_ids:
                wishes = (ledger.leases[lease_id].wish for lease_id in slot.lease_ids)
                self._held[slot_id] = _Held(now_s, tuple((wish.tenant, wish.model_name) for wish in wishes))

    def _charge(self, held: _Held, now_s: float) -> None:
        part_s = (now_s - held.since_s) / len(held.holders)
        for holder in held.holders:
            # Taken out and put in again, those that leased last stand last.
            self._slot_s[holder] = self._slot_s.pop(holder, 0.0) + part_s
        while len(self._slot_s) > MOST_HOLDERS:
            del self._slot_s[next(iter(self._slot_s))]
