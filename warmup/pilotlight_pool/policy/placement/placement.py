"""Where a lease goes: the slot whose predicted ready time is lowest, with every alternative and its reason.

    slot                                      path      predicted seconds
    idle, same model and fingerprint          loaded    ~0
    the same, the wish brings an adapter      adapter   to load it
    held by others with adapters on the same  adapter   (rest of a boot) + to load it: beside them
    sleeping engine of these two inside       wake      (sleep) + wake
    one of the same fingerprint alone         wake      (sleep) + wake + swap + weights from their tier
    idle, same fingerprint, swap proven       swap      swap + weights from their tier
    booting or waking an engine for nobody    join      what is left of that (+ swap, where the model differs)
    empty, failed, or idle with another       fork      (stop) + zygote fork + weights
      fingerprint or another tenant           boot      the same without a zygote
    held by a lease that may be preempted     any       drain + one of the above
    held by another lease                     any       predicted rest of that lease + one of the above: it waits

Among slots within `eta_grain_s` of each other it takes the one whose content was used longest ago (`used_s`): a
few milliseconds are not worth throwing out a model that comes back every minute.

When nothing is possible now the lease queues; when it never will be, or its deadline is nearer than the lowest
prediction, it is refused with numbers, early. Pure: it reserves nothing (the ledger does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pilotlight_pool.policy.leases.isolation import may_reuse
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.prediction import Path, PredictionSpec, PredictionState, Tier, predict
from pilotlight_pool.policy.placement.sleepers import to_wake


@dataclass(frozen=True, slots=True)
class PlacementSpec:
    """`stop_s` and `drain_s`: what killing an engine and draining a preempted lease usually take."""

    prediction: PredictionSpec
    eta_grain_s: float = 0.05
    stop_s: float = 0.5
    drain_s: float = 0.05


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot as placement sees it. `contention` fills in what depends on who else holds and waits.

    `free`: no lease holds or has reserved it. `since_s`: when its state began. `free_in_s`: predicted rest of a lease
    at work; None: unknown. `busy_left_s`: predicted rest of a boot, wake, swap or drain under way. `swappable`: swaps
    of this quantization are proven on this device. `tier`: where the wish's weights are, seen from this node.
    `memory_bytes`: free for an engine if the present one is stopped. `used_s`: when its model was last
    used. From `contention`: `preempts`, the lease that would have to give way, and `preempt_loss_s`,
    what that costs; `stoppable_in_s`, before which its engine may not be stopped; `kept_for`, the tenant within whose
    share its parked engine is. `absent`: why it cannot be used at all now, "" where it can. `fingerprint`: what this
    node calls the wish's (it contains vLLM's version), "" where that is the wish's own. `way_back`: what bringing its
    engine back takes once it had to go. `beside`: who holds it shares it with the wish, which brings an adapter.
    """

    slot_id: str
    state: SlotState
    engine: Engine | None
    sleeping: tuple[Engine, ...]
    tier: Tier
    memory_bytes: int
    free: bool = True
    preempts: str | None = None
    preempt_reason: str = ""
    preempt_detail: str = ""
    preempt_loss_s: float = 0.0
    stoppable_in_s: float = 0.0
    kept_for: str = ""
    since_s: float = 0.0
    free_in_s: float | None = None
    busy_left_s: float = 0.0
    swappable: bool = True
    has_zygote: bool = True
    way_back: Path = "fork"
    used_s: float = 0.0
    absent: str = ""
    fingerprint: str = ""
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve the wish. `stops_engine`: the slot's engine dies for it. `waits`: not yet, its lease must end or
    its engine be old enough first, which takes `wait_s` of the `eta_s`. `loss`: what others lose, compared from left to
    right: a parked engine within its tenant's share, the run of a preempted lease in seconds, `used_s`.
    `reason` and `preempt_reason` are told to holders and name no other tenant; `preempt_detail` is the log's. `beside`:
    with those that hold the slot, who lose nothing.
    """

    slot_id: str
    path: Path
    eta_s: float
    loss: tuple[bool, float, float]
    stops_engine: bool
    preempts: str | None
    waits: bool
    wait_s: float
    reason: str
    preempt_reason: str = ""
    preempt_detail: str = ""
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """`place` on `chosen`; `queue` until something changes; or `refuse`. `ranked`: all ways, best first."""

    verdict: Literal["place", "queue", "refuse"]
    chosen: Candidate | None
    eta_s: float | None
    ranked: tuple[Candidate, ...]
    reasons: tuple[str, ...]

    @property
    def is_own_now(self) -> bool:
        """A slot that nobody has to give up for it."""
        return self.chosen is not None and self.chosen.preempts is None


def place(
    spec: PlacementSpec, wish: LeaseWish, slots: Sequence[SlotView], predictions: PredictionState, now_s: float
) -> Placement:
    """Choose for one wish. `slots` are all slots of the pool, free or not: the others explain themselves."""
    found: list[Candidate] = []
    reasons: list[str] = []
    fits_somewhere = False
    for slot in slots:
        fits_somewhere = fits_somewhere or slot.memory_bytes >= wish.memory_bytes
        candidate, why_not = _candidate(spec, wish, slot, predictions)
        if candidate is not None:
            found.append(candidate)
        else:
            reasons.append(f"{slot.slot_id}: not possible, {why_not}")
    ranked = _ranked(spec, found)
    reasons = [f"{c.slot_id}: {c.eta_s:.2f} s, {c.reason}" for c in ranked] + reasons
    if slots and not fits_somewhere:
        largest = max((slot.memory_bytes for slot in slots), default=0)
        why = f"needs {wish.memory_bytes / 1e9:.1f} GB, the largest of {len(slots)} slots has {largest / 1e9:.1f} GB"
        return Placement("refuse", None, None, ranked, (why, *reasons))
    if not ranked:
        return _waiting(wish, reasons, now_s)
    best = ranked[0]
    late = too_late(wish, best.eta_s, now_s)
    if late is not None:
        return Placement("refuse", None, best.eta_s, ranked, (late, *reasons))
    if best.waits:
        return Placement("queue", None, best.eta_s, ranked, tuple(reasons))
    return Placement("place", best, best.eta_s, ranked, tuple(reasons))


def _waiting(wish: LeaseWish, reasons: list[str], now_s: float) -> Placement:
    late = too_late(wish, 0.0, now_s)
    if late is not None:
        return Placement("refuse", None, None, (), (late, *reasons))
    return Placement("queue", None, None, (), ("no slot is free and no lease may be preempted for it", *reasons))


def too_late(wish: LeaseWish, eta_s: float, now_s: float) -> str | None:
    """Why it cannot be in time, None where it can."""
    if wish.deadline_at_s is None or now_s + eta_s <= wish.deadline_at_s:
        return None
    return f"ready in {eta_s:.2f} s at the earliest, the deadline is in {wish.deadline_at_s - now_s:.2f} s"


def _ranked(spec: PlacementSpec, found: list[Candidate]) -> tuple[Candidate, ...]:
    by_eta = sorted(found, key=lambda c: (c.eta_s, c.slot_id))
    if not by_eta:
        return ()
    near = [c for c in by_eta if c.eta_s <= by_eta[0].eta_s + spec.eta_grain_s]
    near.sort(key=lambda c: (c.waits, c.preempts is not None, c.loss, c.eta_s, c.slot_id))
    return (*near, *by_eta[len(near) :])


def _candidate(
    spec: PlacementSpec, wish: LeaseWish, slot: SlotView, predictions: PredictionState
) -> tuple[Candidate | None, str]:
    if slot.absent:
        return None, slot.absent
    if slot.fingerprint:
        wish = replace(wish, fingerprint=slot.fingerprint)
    if slot.beside:
        return _beside(spec, wish, slot, predictions), ""
    held = not slot.free and slot.preempts is None
    if held and slot.free_in_s is None:
        return None, "held by a lease that may not be preempted"
    if slot.memory_bytes < wish.memory_bytes:
        return None, f"{slot.memory_bytes / 1e9:.1f} GB, the model needs {wish.memory_bytes / 1e9:.1f} GB"
    way = _way(wish, slot)
    if isinstance(way, str):
        return None, way
    reason, stops, first = way.reason, way.stops_engine, way.steps[0]
    eta_s = slot.busy_left_s + (spec.stop_s if stops else 0.0)
    for path in way.steps:
        eta_s += predict(spec.prediction, predictions, path, slot.tier, wish.fingerprint, wish.weights_bytes)
    wait_s = 0.0
    if slot.preempts is not None:
        eta_s += spec.drain_s
        reason = f"{reason}; preempts a lease: {slot.preempt_reason}"
    elif slot.free_in_s is not None:
        wait_s = slot.free_in_s
        reason = f"{reason}; its lease should end in {slot.free_in_s:.1f} s"
    if stops and slot.stoppable_in_s > wait_s:
        wait_s = slot.stoppable_in_s
        whose = "kept for its tenant" if slot.kept_for else "too young to be stopped"
        reason = f"{reason}; its engine is {whose} for another {slot.stoppable_in_s:.1f} s"
    loss = (bool(slot.kept_for) and first not in {"loaded", "adapter"}, slot.preempt_loss_s, slot.used_s)
    waits = held or (stops and slot.stoppable_in_s > 0.0)
    candidate = Candidate(
        slot.slot_id, first, eta_s + wait_s, loss, stops, slot.preempts, waits, wait_s, reason, slot.preempt_reason,
        slot.preempt_detail,
    )  # fmt: skip
    return candidate, ""


def _beside(spec: PlacementSpec, wish: LeaseWish, slot: SlotView, predictions: PredictionState) -> Candidate:
    loads_s = predict(spec.prediction, predictions, "adapter", slot.tier, wish.fingerprint, 0)
    reason = f"its engine holds {wish.model} for others with adapters"
    return Candidate(
        slot.slot_id, "adapter", slot.busy_left_s + loads_s, (False, 0.0, 0.0), False, None, False, 0.0, reason,
        beside=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Way:
    """`steps` until the engine is ready. `stops_engine`: the one that is awake has to go (to sleep, where it can)."""

    steps: tuple[Path, ...]
    stops_engine: bool
    reason: str


def _way(wish: LeaseWish, slot: SlotView) -> _Way | str:
    """How the slot could serve the wish, or why it cannot."""
    engine = slot.engine if slot.state not in {SlotState.STOPPING, SlotState.FAILED} else None
    wait = f" after {slot.busy_left_s:.2f} s of {slot.state}" if slot.busy_left_s > 0 else ""
    reusable = engine is not None and may_reuse(engine.tenant, engine.isolation, wish)
    if engine is not None and reusable and engine.fingerprint == wish.fingerprint:
        if engine.model == wish.model:
            return _Way(("adapter" if wish.adapter else "loaded",), False, f"its engine holds {wish.model}{wait}")
        if slot.swappable:
            return _Way(("swap",), False, f"same fingerprint, weights from {slot.tier}{wait}")
    occupied = slot.engine is not None
    asleep = to_wake(slot.sleeping, wish, swappable=slot.swappable)
    if asleep is not None and asleep.model == wish.model:
        return _Way(("wake",), occupied, f"{wish.model} sleeps here{wait}")
    if asleep is not None:
        return _Way(("wake", "swap"), occupied, f"an engine of its fingerprint sleeps here{wait}")
    path: Path = "fork" if slot.has_zygote else "boot"
    return _Way((path,), occupied, f"{_why_fresh(wish, engine, slot)}, weights from {slot.tier}{wait}")


def _why_fresh(wish: LeaseWish, engine: Engine | None, slot: SlotView) -> str:
    if engine is None:
        return "no engine yet"
    if not may_reuse(engine.tenant, engine.isolation, wish):
        return "its engine served another tenant"
    if engine.fingerprint != wish.fingerprint:
        return "its engine has another fingerprint"
    return "swaps of this kind are not proven on this device"
