"""One wish against a contended pool: which slots it may take, from whom, and when an engine may be stopped for it.

    engine in the slot              may be                     because
    same fingerprint, swappable     swapped at any time        the way back costs a swap
    another, and somebody else      stopped once it has lived  a boot must pay for itself, or two tenants would boot
      has it or waits for it        `worth_boots` boots        against each other and neither would ever work
    another, parked by a tenant     stopped once it has been   what its tenant has within its share is not thrown out
      within its share              parked for so long         by a flood, where only a boot would bring it back

Keeping for as long as a boot costs is at most twice the best anybody could do who knows nothing of the next lease
(the ski-rental bound), and bounds what a lease can wait for an idle slot. Parked engines of tenants within their share
are also the last to be overwritten by a swap. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.placement import Placement, PlacementSpec, SlotView, place
from pilotlight_pool.policy.placement.prediction import PredictionState, predict
from pilotlight_pool.policy.placement.preemption import HeldLease, TenantUse, victims

_PARKED = frozenset({SlotState.IDLE, SlotState.DRAINING})


@dataclass(frozen=True, slots=True)
class EvictionSpec:
    """`worth_boots`: how many boots' time an engine is kept for; 2 keeps boots to a third of a slot's time."""

    placement: PlacementSpec
    worth_boots: float = 2.0


@dataclass(frozen=True, slots=True)
class Contention:
    """Who holds and who waits. `wanted`: models and fingerprints of the other leases that wait."""

    held: Sequence[HeldLease]
    tenants: Mapping[str, TenantUse]
    wanted: frozenset[str] = field(default_factory=frozenset)


def choose(
    spec: EvictionSpec,
    wish: LeaseWish,
    slots: Sequence[SlotView],
    contention: Contention,
    predictions: PredictionState,
    now_s: float,
) -> Placement:
    """Where the wish goes now. `slots` know nothing yet of who may be preempted or what is kept for whom."""
    given_up = victims(wish, contention.held, contention.tenants, now_s)
    parked = _kept(spec, slots, contention, predictions, now_s)
    seen: list[SlotView] = []
    for slot in slots:
        changes: dict[str, Any] = {}
        young_s = _young_s(spec, slot, contention, predictions, now_s)
        if young_s > 0.0:
            changes["stoppable_in_s"] = young_s
        victim = given_up.get(slot.slot_id)
        if victim is not None and not slot.absent and _can_be_displaced(slot, wish):
            changes |= {
                "preempts": victim.lease.lease_id, "preempt_reason": victim.reason, "preempt_detail": victim.detail,
                "preempt_loss_s": victim.loss_s,
            }  # fmt: skip
        if slot.engine is not None and slot.engine.owner != wish.tenant and slot.slot_id in parked:
            changes |= {"kept_for": slot.engine.owner, "stoppable_in_s": max(young_s, parked[slot.slot_id])}
        seen.append(replace(slot, **changes) if changes else slot)
    return place(spec.placement, wish, seen, predictions, now_s)


def choose_ahead(
    spec: EvictionSpec,
    wish: LeaseWish,
    slots: Sequence[SlotView],
    contention: Contention,
    predictions: PredictionState,
    now_s: float,
) -> Placement:
    """Where an engine could be held before any lease asks for it. It preempts nobody, and whatever the shares, it
    leaves what another tenant has parked for less than `worth_boots` boots: that one's next lease is likelier."""

    def is_left(slot: SlotView) -> bool:
        engine = slot.engine
        if engine is None or engine.owner in {"", wish.tenant}:
            return True
        return now_s - slot.since_s >= _worth_s(spec, slot, engine, predictions)

    free = [slot for slot in slots if is_left(slot)]
    return choose(spec, wish, free, replace(contention, held=()), predictions, now_s)


def _can_be_displaced(slot: SlotView, wish: LeaseWish) -> bool:
    """A lease on its way to an engine of which the wish could make nothing would only have booted in vain."""
    if slot.state in {SlotState.LEASED, SlotState.IDLE, SlotState.DRAINING}:
        return True
    wanted = slot.fingerprint or wish.fingerprint
    return slot.engine is not None and slot.engine.fingerprint == wanted and slot.swappable


def _kept(
    spec: EvictionSpec, slots: Sequence[SlotView], contention: Contention, predictions: PredictionState, now_s: float
) -> dict[str, float]:
    """Parked slots within their tenants' shares, those used last first, and for how much longer each is kept.

    No more of them than the tenant used lately: what it parks is what others cannot use.
    """
    room = {
        tenant: min(use.share_slots, max(1, math.ceil(use.mean_slots))) - use.held_slots
        for tenant, use in contention.tenants.items()
        if use.relative <= 1.0
    }
    kept: dict[str, float] = {}
    for slot in sorted(slots, key=lambda slot: -slot.since_s):
        engine = slot.engine
        if engine is None or not slot.free or slot.state not in _PARKED or room.get(engine.owner, 0.0) < 1.0:
            continue
        left_s = slot.since_s + _worth_s(spec, slot, engine, predictions) - now_s
        if left_s > 0.0:
            kept[slot.slot_id] = left_s
            room[engine.owner] -= 1.0
    return kept


def _young_s(
    spec: EvictionSpec, slot: SlotView, contention: Contention, predictions: PredictionState, now_s: float
) -> float:
    engine = slot.engine
    if engine is None:
        return 0.0
    if slot.free and (engine.fingerprint if slot.swappable else engine.model) not in contention.wanted:
        return 0.0
    return max(0.0, engine.booted_s + _worth_s(spec, slot, engine, predictions) - now_s)


def _worth_s(spec: EvictionSpec, slot: SlotView, engine: Engine, predictions: PredictionState) -> float:
    way_back_s = predict(spec.placement.prediction, predictions, slot.way_back, slot.tier, engine.fingerprint, 0)
    return spec.worth_boots * way_back_s
