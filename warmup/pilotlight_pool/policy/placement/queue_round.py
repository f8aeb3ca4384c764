"""One pass over the queue in fair order: what happens to each lease now, and when the others can expect a slot.

Each lease that has to wait books the slot that it expects, for as long as its tenant's leases usually take; those
behind it expect a slot after that. So the predicted ready time of a queued lease accounts for everything before it, and
two leases never wait for the same slot beside an empty one.

    for each waiting lease, best first:
        refused or queued with those like it     `known` answers, at no cost: a flood is one question, not a thousand
        anything else                            `decide`; the caller carries out what it says before the next

Lives for one pass. Pure: it looks at no clock and changes nothing but its own bookings.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.placement.eviction_rules import Contention, EvictionSpec, choose
from pilotlight_pool.policy.placement.placement import Placement, SlotView, too_late
from pilotlight_pool.policy.placement.prediction import PredictionState


@dataclass(frozen=True, slots=True)
class _Blocked:
    """What was said to the first lease of its kind. `ready_s`: from a slot that is free to an engine that is ready."""

    ready_s: float | None
    reasons: tuple[str, ...]
    count: int = 1


class QueueRound:
    def __init__(self, spec: EvictionSpec, predictions: PredictionState, now_s: float) -> None:
        self._spec = spec
        self._predictions = predictions
        self._now_s = now_s
        self._free_in_s: dict[str, float | None] = {}
        self._blocked: dict[Hashable, _Blocked] = {}

    def known(self, kind: Hashable, wish: LeaseWish, hold_s: float | None) -> Placement | None:
        """The answer where nothing can be got for a lease of this kind; None: ask `decide`. Arguments as there."""
        blocked = self._blocked.get(kind)
        if blocked is None:
            return None
        expected = [(free_s, slot_id) for slot_id, free_s in self._free_in_s.items() if free_s is not None]
        eta_s = None
        if expected and blocked.ready_s is not None:
            free_s, slot_id = min(expected)
            eta_s = free_s + blocked.ready_s
        before = f"{blocked.count} of {wish.tenant} like it wait before it"
        late = too_late(wish, eta_s or 0.0, self._now_s)
        if late is not None:
            return Placement("refuse", None, eta_s, (), (late, before, *blocked.reasons))
        self._blocked[kind] = replace(blocked, count=blocked.count + 1)
        if eta_s is not None:
            self._book(slot_id, eta_s, hold_s)
        return Placement("queue", None, eta_s, (), (before, *blocked.reasons))

    def decide(
        self,
        kind: Hashable,
        wish: LeaseWish,
        slots: Sequence[SlotView],
        contention: Contention,
        hold_s: float | None,
        *,
        can_share: bool = False,
    ) -> Placement:
        """`kind`: the same for wishes that can get the same slots. `hold_s`: how long leases of this tenant usually
        hold one, None where that is unknown. `can_share`: others of its endpoint hold a slot, which it shares
        unless it gets one of its own at once; so it books nothing else."""
        slots = [self._as_booked(slot) for slot in slots]
        decision = choose(self._spec, wish, slots, contention, self._predictions, self._now_s)
        best = decision.chosen or next(iter(decision.ranked), None)
        if decision.verdict == "refuse" or (can_share and not decision.is_own_now):
            return decision
        if all(candidate.waits for candidate in decision.ranked):
            ready_s = best.eta_s - best.wait_s if best is not None else None
            self._blocked[kind] = _Blocked(ready_s, decision.reasons)
        if best is not None:
            self._book(best.slot_id, best.eta_s, hold_s)
        return decision

    def _as_booked(self, slot: SlotView) -> SlotView:
        if slot.slot_id not in self._free_in_s:
            self._free_in_s[slot.slot_id] = slot.busy_left_s if slot.free else slot.free_in_s
            return slot
        return slot if slot.free else replace(slot, free_in_s=self._free_in_s[slot.slot_id])

    def _book(self, slot_id: str, ready_in_s: float, hold_s: float | None) -> None:
        self._free_in_s[slot_id] = None if hold_s is None else ready_in_s + hold_s
