"""What idle engines are kept for, stopped for, or booted ahead for: keep-alive, schedules and prewarm calls.

Shows `policy.keep_alive` the gaps in the demand for each (fingerprint, k) and turns what it decides into wishes for the
slot drivers. Placement decides where. A lease always comes first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.warm_orders import WarmOrder
from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_pool.policy.keep_warm import idle_histogram, keep_alive, uncontested
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Slot
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.placement import Candidate, Placement

_MOST_LEVELS = 4096


@dataclass
class _Level:
    """Demand for a k-th engine of one fingerprint. `plan` is for the gap that runs since `gap_began_s`."""

    histogram: idle_histogram.IdleHistogram = field(default_factory=idle_histogram.IdleHistogram)
    gap_began_s: float | None = None
    plan: keep_alive.KeepAlivePlan | None = None


@dataclass(frozen=True, slots=True)
class StopIdle:
    slot_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadAhead:
    slot_id: str
    warm: WarmOrder
    reason: str


class PlacementOutlook(Protocol):
    """What dispatch would do, without doing it."""

    def would_place(self, wish: LeaseWish, order: EngineOrder) -> Placement: ...

    def share_slots(self, tenants: Iterable[str], now_s: float) -> Mapping[str, float]: ...


class KeepAliveController:
    """`unix_s`: Unix time."""

    def __init__(
        self,
        pool: Pool,
        outlook: PlacementOutlook,
        keep_alive_spec: keep_alive.KeepAliveSpec,
        unix_s: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._outlook = outlook
        self._keep_alive = keep_alive_spec
        self._unix_s = unix_s
        self._levels: OrderedDict[tuple[str, int], _Level] = OrderedDict()
        self._busy: Counter[str] = Counter()
        self._held: dict[str, str] = {}

    def observe(self, slot_ids: Iterable[str]) -> None:
        """Look at who holds these slots now; call it with those that have changed."""
        before: dict[str, int] = {}
        for slot_id in slot_ids:
            slot = self._pool.ledger.slots.get(slot_id)
            if (left := self._held.pop(slot_id, None)) is not None:
                before.setdefault(left, self._busy[left])
                self._busy[left] -= 1
            if slot is not None and slot.lease_id is not None:
                fingerprint = self._held[slot_id] = self._pool.records[slot.lease_id].order.facts.fingerprint
                before.setdefault(fingerprint, self._busy[fingerprint])
                self._busy[fingerprint] += 1
        for fingerprint, was in before.items():
            self._demand_moved(fingerprint, was)

    def _demand_moved(self, fingerprint: str, was: int) -> None:
        now_s, busy = self._pool.now_s(), self._busy[fingerprint]
        for k in range(was + 1, busy + 1):
            level = self._levels.setdefault((fingerprint, k), _Level())
            if level.gap_began_s is not None:
                gap_s = now_s - level.gap_began_s
                level.histogram = idle_histogram.record(level.histogram, gap_s)
                level.gap_began_s = level.plan = None
        for k in range(busy + 1, was + 1):
            if (over := self._levels.get((fingerprint, k))) is not None:
                over.gap_began_s = now_s
                over.plan = keep_alive.decide(self._keep_alive, over.histogram)
        if not busy:
            del self._busy[fingerprint]
        while len(self._levels) > _MOST_LEVELS:
            self._levels.popitem(last=False)

    def decide(self) -> list[StopIdle | LoadAhead]:
        """What to do now; call it every now and then."""
        now_s, orders = self._pool.now_s(), self._pool.warm_orders
        orders.follow(self._fork_s, now_s, self._unix_s())
        if orders.tenants:
            orders.enforce(self._outlook.share_slots(orders.tenants, now_s), now_s)
        wishes: list[StopIdle | LoadAhead] = [*self._stops(now_s)]
        taken: set[str] = set()
        engines = [slot.engine for slot in self._pool.ledger.slots.values() if slot.engine is not None]
        for warm in orders.in_force:
            if any(warm.is_met_by(engine) for engine in engines):
                continue
            found = self._place(warm, taken)
            wishes += [LoadAhead(found.slot_id, warm, found.reason)] if found is not None else []
        return wishes

    def _stops(self, now_s: float) -> list[StopIdle]:
        by_fingerprint: dict[str, list[Slot]] = {}
        leased: Counter[str] = Counter()
        for slot in self._pool.ledger.slots.values():
            if slot.engine is None:
                continue
            if slot.lease_id is not None:
                leased[slot.engine.fingerprint] += 1
            elif slot.state is SlotState.IDLE and not self._pool.warm_orders.is_held(slot.engine):
                by_fingerprint.setdefault(slot.engine.fingerprint, []).append(slot)
        overdue: dict[str, tuple[uncontested.Overdue, str]] = {}
        for fingerprint, idle in by_fingerprint.items():
            idle.sort(key=self._used_s, reverse=True)
            for k, slot in enumerate(idle, start=leased[fingerprint] + 1):
                keep, reason = self._is_kept(fingerprint, k, slot, now_s)
                if not keep:
                    each = uncontested.Overdue(slot.slot_id, now_s - slot.since_s, self._used_s(slot))
                    overdue[slot.slot_id] = each, reason
        if not overdue:
            return []
        goes = uncontested.to_stop(self._keep_alive, [each for each, _ in overdue.values()], self._contested(now_s))
        return [StopIdle(slot_id, f"{overdue[slot_id][1]}; {why}") for slot_id, why in goes.items()]

    def _contested(self, now_s: float) -> int:
        slots = [slot for key, slot in self._pool.ledger.slots.items() if key not in self._pool.absent]
        engines = Counter(slot.engine.fingerprint for slot in slots if slot.engine is not None)
        empty = sum(slot.engine is None for slot in slots)
        demands = (uncontested.Demand(*key, level.gap_began_s) for key, level in self._levels.items())
        return uncontested.contested_slots(self._keep_alive, demands, engines, empty, now_s)

    def _is_kept(self, fingerprint: str, k: int, slot: Slot, now_s: float) -> tuple[bool, str]:
        level = self._levels.get((fingerprint, k))
        if level is None or level.plan is None or level.gap_began_s is None:
            # Booted for a lease that went elsewhere, or ahead: as long as one of which nothing is known.
            keep_s = self._keep_alive.standard_keep_alive_s
            return now_s - slot.since_s < keep_s, f"idle for {keep_s:.0f} s, never used"
        if now_s - level.gap_began_s < level.plan.keep_s:
            return True, ""
        return False, f"engine {k} of its fingerprint is not wanted now: {level.plan.reason}"

    def _place(self, warm: WarmOrder, taken: set[str]) -> Candidate | None:
        backs_off_s = self._pool.warm_orders.wait_s(warm, self._pool.now_s())
        if max(backs_off_s, self._pool.models.wait_s(warm.order.facts.key)) > 0:
            return None
        for candidate in self._outlook.would_place(warm.wish, warm.order).ranked:
            slot = self._pool.ledger.slots[candidate.slot_id]
            kept = slot.engine is not None and self._pool.warm_orders.is_held(slot.engine)
            if not candidate.waits and not kept and slot.slot_id not in taken and slot.state is not SlotState.FAILED:
                taken.add(slot.slot_id)
                return candidate
        return None

    def _fork_s(self, order: EngineOrder) -> float:
        return self._pool.models.predicted_s("fork", order.facts)

    def _used_s(self, slot: Slot) -> float:
        return self._pool.models.last_used_s(slot.engine.model) if slot.engine is not None else 0.0
