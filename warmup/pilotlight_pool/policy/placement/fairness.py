"""Who is next when leases wait: weighted, work-conserving fair queueing of tenants in slot-seconds.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM'96) with tenants as flows. A lease's start tag is
`max(virtual time, its tenant's finish tag)`, and the finish tag grows by slot-seconds / weight. What a lease costs is
known only at its end, so it is charged its tenant's usual cost at the start and corrected at the end.

    across tenants   the lowest start tag; then interactive before normal; then who waits longest
    within a tenant  interactive, normal, batch; then who waits longest
    batch            behind everything else, until it has waited `batch_patience_s`

Priority orders within a tenant and never buys a place ahead of another tenant. A tenant that was away comes back at
the present virtual time: absence saves up no credit, and a flood leaves no debt that was not its own.

`order` gives everyone who waits, best first, and the caller takes the first that can be placed: no slot stays free
while any lease fits it. The queue is bounded in all and per tenant, so a flood fills its own part.

`mean_slots` is what a tenant held lately *while anybody waited*, and it was not alone: what it used of an idle pool, or
of a pool of its own, is held against nobody. A lease that shares a slot with another of its endpoint would wait if it
did not, and counts as one that does: an endpoint whose pods share stands to others as one whose pods wait in turn.
Tenants that share a slot hold equal parts of it. Preemption compares these means. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilotlight_pool.policy.leases.lease_terms import PRIORITY_RANK, LeaseWish
from pilotlight_protocol.leases import Priority

_FORGOTTEN_SLOTS = 0.01


@dataclass(frozen=True, slots=True)
class FairnessSpec:
    """Weights are relative, 1 where not named. `usual_cost_s` is the first guess at a lease's slot-seconds.

    `horizon_s`: over which `mean_slots` looks back (time constant), i.e. how long a tenant may burst over its share.
    `head_start_s`: every mean begins with so long a time of no use, so that one lease says little about a tenant.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    max_waiting: int = 10_000
    max_waiting_per_tenant: int = 1_000
    batch_patience_s: float = 300.0
    usual_cost_s: float = 10.0
    smoothing: float = 0.2
    horizon_s: float = 300.0
    head_start_s: float = 2.0

    def weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)


@dataclass(frozen=True, slots=True)
class Waiting:
    lease_id: str
    tenant: str
    priority: Priority
    since_s: float


@dataclass(frozen=True, slots=True)
class _Running:
    """`part` of a slot since `since_s`; before that it used `used_s` slot-seconds."""

    tenant: str
    started_s: float
    charged_s: float
    since_s: float
    part: float = 1.0
    used_s: float = 0.0

    def used_by(self, now_s: float) -> float:
        return self.used_s + self.part * max(0.0, now_s - self.since_s)


@dataclass(frozen=True, slots=True)
class FairnessState:
    """`sharing`: leases beside the one that holds their slot and is charged for it. `finish_tags` and `virtual_time`
    are in slot-seconds per unit of weight. `used_s` (slot-seconds by tenant) and `contended_s` count only contended
    time; both fade over the horizon and are as of `as_of_s`."""

    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    sharing: frozenset[str] = frozenset()
    running: Mapping[str, _Running] = field(default_factory=dict)
    finish_tags: Mapping[str, float] = field(default_factory=dict)
    used_s: Mapping[str, float] = field(default_factory=dict)
    contended_s: float = 0.0
    as_of_s: float = 0.0
    usual_cost_s: Mapping[str, float] = field(default_factory=dict)
    virtual_time: float = 0.0


def enqueue(
    spec: FairnessSpec, state: FairnessState, wish: LeaseWish, now_s: float, since_s: float | None = None
) -> tuple[str | None, FairnessState]:
    """(refusal, state): the wish waits, or the sentence that says why it may not. `since_s`: when a lease that comes
    back to the queue was asked for; None: now."""
    if wish.lease_id in state.waiting:
        return None, state
    if len(state.waiting) >= spec.max_waiting:
        return f"{len(state.waiting)} leases wait already, the queue takes {spec.max_waiting}: try again later", state
    mine = sum(entry.tenant == wish.tenant for entry in state.waiting.values())
    if mine >= spec.max_waiting_per_tenant:
        return (
            f"{mine} leases of tenant {wish.tenant} wait already, it may have {spec.max_waiting_per_tenant}: "
            "wait for them, or raise its limit",
            state,
        )
    entry = Waiting(wish.lease_id, wish.tenant, wish.priority, now_s if since_s is None else since_s)
    return None, replace(_faded(spec, state, now_s), waiting={**state.waiting, wish.lease_id: entry})


def withdraw(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease neither waits nor shares any more: released, expired or refused."""
    waiting = {key: entry for key, entry in state.waiting.items() if key != lease_id}
    return replace(_faded(spec, state, now_s), waiting=waiting, sharing=state.sharing - {lease_id})


def shares(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease is let in beside the one that holds the slot: that one alone is charged."""
    state = slot_lost(spec, withdraw(spec, state, lease_id, now_s), lease_id, now_s)
    return replace(state, sharing=state.sharing | {lease_id})


def order(spec: FairnessSpec, state: FairnessState, now_s: float) -> tuple[str, ...]:
    """Every waiting lease, in the order in which they should get slots.

    A tenant's second lease is ranked as if its first had started, so that tenants alternate in the order itself.
    """
    by_tenant: dict[str, list[Waiting]] = {}
    for entry in state.waiting.values():
        by_tenant.setdefault(entry.tenant, []).append(entry)
    ranked: list[tuple[bool, float, int, float, str]] = []
    for tenant, entries in by_tenant.items():
        entries.sort(key=lambda entry: (PRIORITY_RANK[entry.priority], entry.since_s, entry.lease_id))
        tag = _start_tag(state, tenant)
        step = _usual_cost(spec, state, tenant) / spec.weight(tenant)
        for place, entry in enumerate(entries):
            background = entry.priority == "batch" and now_s - entry.since_s < spec.batch_patience_s
            rank = PRIORITY_RANK[entry.priority]
            ranked.append((background, tag + place * step, rank, entry.since_s, entry.lease_id))
    return tuple(lease_id for *_, lease_id in sorted(ranked))


def started(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease got a slot: it leaves the queue and its tenant is charged the usual cost."""
    tenant = state.waiting[lease_id].tenant
    return _running(spec, withdraw(spec, state, lease_id, now_s), lease_id, tenant, now_s)


def adopt(spec: FairnessSpec, state: FairnessState, wish: LeaseWish, now_s: float, part: float = 1.0) -> FairnessState:
    """The lease has a slot already, or from now on this `part` of one: it never waits here, and its tenant is charged
    as for any other."""
    run = state.running.get(wish.lease_id)
    if run is None:
        state = withdraw(spec, state, wish.lease_id, now_s)
        state = _running(spec, state, wish.lease_id, wish.tenant, now_s)
        run = state.running[wish.lease_id]
    if run.part == part:
        return state
    state = _faded(spec, state, now_s)
    run = replace(run, part=part, since_s=now_s, used_s=run.used_by(now_s))
    return replace(state, running={**state.running, wish.lease_id: run})


def ended(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease gave its slot back: the charge is put right, and what leases of its tenant usually take is learned.

    Unknown leases change nothing.
    """
    run = state.running.get(lease_id)
    if run is None:
        return state
    usual_s = _usual_cost(spec, state, run.tenant)
    learned_s = usual_s + spec.smoothing * (now_s - run.started_s - usual_s)
    state = slot_lost(spec, state, lease_id, now_s)
    return replace(state, usual_cost_s={**state.usual_cost_s, run.tenant: learned_s})


def slot_lost(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease lost its slot before it was done: the charge is put right, and nothing is learned from it."""
    run = state.running.get(lease_id)
    if run is None and lease_id not in state.sharing:
        return state
    state = replace(_faded(spec, state, now_s), sharing=state.sharing - {lease_id})
    if run is None:
        return state
    corrected = state.finish_tags[run.tenant] + (run.used_by(now_s) - run.charged_s) / spec.weight(run.tenant)
    return replace(
        state,
        running={key: other for key, other in state.running.items() if key != lease_id},
        finish_tags={**state.finish_tags, run.tenant: corrected},
    )


def mean_slots(spec: FairnessSpec, state: FairnessState, now_s: float) -> Mapping[str, float]:
    """How many slots each tenant held lately while leases waited. A tenant that is not named held none."""
    now = _faded(spec, state, now_s)
    span_s = now.contended_s + spec.head_start_s
    return {tenant: used_s / span_s for tenant, used_s in now.used_s.items()}


def usual_hold_s(state: FairnessState, tenant: str) -> float | None:
    """How long leases of the tenant usually hold a slot; of all tenants while it has had none; None before any."""
    learned = state.usual_cost_s
    if tenant in learned or not learned:
        return learned.get(tenant)
    return sum(learned.values()) / len(learned)


def lease_rest_s(state: FairnessState, lease_id: str, now_s: float) -> float | None:
    """How much longer a lease is expected to hold its slot; None where nothing was learned.

    One that has outlived the usual is expected to last as long again: nobody waits for ever for a slot that "must be
    free any moment" beside an empty one.
    """
    run = state.running.get(lease_id)
    usual_s = usual_hold_s(state, run.tenant) if run is not None else None
    if run is None or usual_s is None:
        return None
    held_s = now_s - run.started_s
    return max(usual_s - held_s, held_s)


def forget_idle_tenants(spec: FairnessSpec, state: FairnessState, now_s: float) -> FairnessState:
    """Drop tenants that neither wait nor run, owe nothing and held nothing lately, so that the state stays bounded."""
    present = {entry.tenant for entry in state.waiting.values()} | {run.tenant for run in state.running.values()}
    means = mean_slots(spec, state, now_s)
    kept = {
        tenant
        for tenant in {*state.finish_tags, *means}
        if tenant in present
        or state.finish_tags.get(tenant, 0.0) > state.virtual_time
        or means.get(tenant, 0.0) > _FORGOTTEN_SLOTS
    }
    return replace(
        state,
        finish_tags={tenant: tag for tenant, tag in state.finish_tags.items() if tenant in kept},
        used_s={tenant: used_s for tenant, used_s in state.used_s.items() if tenant in kept},
        usual_cost_s={tenant: cost_s for tenant, cost_s in state.usual_cost_s.items() if tenant in kept},
    )


def _faded(spec: FairnessSpec, state: FairnessState, now_s: float) -> FairnessState:
    """The same state with its means as of now; who holds and who waits has not changed since they were last."""
    left = math.exp(-max(0.0, now_s - state.as_of_s) / spec.horizon_s)
    tenants = {entry.tenant for entry in state.waiting.values()} | {run.tenant for run in state.running.values()}
    contended = bool(state.waiting or state.sharing) and len(tenants.union(state.used_s)) > 1
    grown_s = spec.horizon_s * (1.0 - left) if contended else 0.0
    used_s = {tenant: before_s * left for tenant, before_s in state.used_s.items()}
    for run in state.running.values() if contended else ():
        used_s[run.tenant] = used_s.get(run.tenant, 0.0) + grown_s * run.part
    return replace(
        state, used_s=used_s, contended_s=state.contended_s * left + grown_s, as_of_s=max(now_s, state.as_of_s)
    )


def _running(spec: FairnessSpec, state: FairnessState, lease_id: str, tenant: str, now_s: float) -> FairnessState:
    tag, cost_s = _start_tag(state, tenant), _usual_cost(spec, state, tenant)
    return replace(
        state,
        running={**state.running, lease_id: _Running(tenant, now_s, cost_s, now_s)},
        finish_tags={**state.finish_tags, tenant: tag + cost_s / spec.weight(tenant)},
        virtual_time=max(state.virtual_time, tag),
    )


def _start_tag(state: FairnessState, tenant: str) -> float:
    return max(state.virtual_time, state.finish_tags.get(tenant, 0.0))


def _usual_cost(spec: FairnessSpec, state: FairnessState, tenant: str) -> float:
    return state.usual_cost_s.get(tenant, spec.usual_cost_s)
