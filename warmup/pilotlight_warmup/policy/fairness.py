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
while any lease fits it. The queue is bounded in all and per tenant, so a flood fills its own part. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .lease_terms import PRIORITY_RANK, LeaseWish, Priority


@dataclass(frozen=True, slots=True)
class FairnessSpec:
    """Weights are relative, 1 where not named. `usual_cost_s` is the first guess at a lease's slot-seconds.

    `horizon_s`: over which `mean_slots` looks back (time constant), i.e. how long a tenant may burst over its share.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    max_waiting: int = 10_000
    max_waiting_per_tenant: int = 1_000
    batch_patience_s: float = 300.0
    usual_cost_s: float = 10.0
    smoothing: float = 0.2
    horizon_s: float = 60.0

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
    tenant: str
    started_s: float
    start_tag: float
    charged_s: float


@dataclass(frozen=True, slots=True)
class FairnessState:
    """`finish_tags` and `virtual_time` are in slot-seconds per unit of weight."""

    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    running: Mapping[str, _Running] = field(default_factory=dict)
    finish_tags: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # mean slots, as of
    usual_cost_s: Mapping[str, float] = field(default_factory=dict)
    virtual_time: float = 0.0


def enqueue(
    spec: FairnessSpec, state: FairnessState, wish: LeaseWish, now_s: float
) -> tuple[str | None, FairnessState]:
    """(refusal, state): the wish waits from now on, or the sentence that says why it may not."""
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
    entry = Waiting(wish.lease_id, wish.tenant, wish.priority, now_s)
    return None, replace(state, waiting={**state.waiting, wish.lease_id: entry})


def withdraw(state: FairnessState, lease_id: str) -> FairnessState:
    """The lease no longer waits: released, expired or refused."""
    return replace(state, waiting={key: entry for key, entry in state.waiting.items() if key != lease_id})


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
    entry = state.waiting[lease_id]
    tag = _start_tag(state, entry.tenant)
    cost_s = _usual_cost(spec, state, entry.tenant)
    return replace(
        withdraw(state, lease_id),
        means={**state.means, entry.tenant: (mean_slots(spec, state, entry.tenant, now_s), now_s)},
        running={**state.running, lease_id: _Running(entry.tenant, now_s, tag, cost_s)},
        finish_tags={**state.finish_tags, entry.tenant: tag + cost_s / spec.weight(entry.tenant)},
        virtual_time=max(state.virtual_time, tag),
    )


def ended(spec: FairnessSpec, state: FairnessState, lease_id: str, now_s: float) -> FairnessState:
    """The lease gave its slot back, however that came: the charge is put right. Unknown leases change nothing."""
    run = state.running.get(lease_id)
    if run is None:
        return state
    used_s = max(0.0, now_s - run.started_s)
    usual_s = _usual_cost(spec, state, run.tenant)
    corrected = state.finish_tags[run.tenant] + (used_s - run.charged_s) / spec.weight(run.tenant)
    return replace(
        state,
        means={**state.means, run.tenant: (mean_slots(spec, state, run.tenant, now_s), now_s)},
        running={key: other for key, other in state.running.items() if key != lease_id},
        finish_tags={**state.finish_tags, run.tenant: corrected},
        usual_cost_s={**state.usual_cost_s, run.tenant: usual_s + spec.smoothing * (used_s - usual_s)},
    )


def mean_slots(spec: FairnessSpec, state: FairnessState, tenant: str, now_s: float) -> float:
    """How many slots the tenant held lately: an exponentially weighted mean over `horizon_s`."""
    before, as_of_s = state.means.get(tenant, (0.0, now_s))
    held = sum(run.tenant == tenant for run in state.running.values())
    faded = math.exp(-(now_s - as_of_s) / spec.horizon_s)
    return before * faded + held * (1.0 - faded)


def forget_idle_tenants(spec: FairnessSpec, state: FairnessState, now_s: float) -> FairnessState:
    """Drop tenants that neither wait nor run, owe nothing and held nothing lately, so that the state stays bounded."""
    present = {entry.tenant for entry in state.waiting.values()} | {run.tenant for run in state.running.values()}
    kept = {
        tenant
        for tenant in {*state.finish_tags, *state.means}
        if tenant in present
        or state.finish_tags.get(tenant, 0.0) > state.virtual_time
        or mean_slots(spec, state, tenant, now_s) > 0.01
    }
    return replace(
        state,
        finish_tags={tenant: tag for tenant, tag in state.finish_tags.items() if tenant in kept},
        means={tenant: mean for tenant, mean in state.means.items() if tenant in kept},
        usual_cost_s={tenant: cost_s for tenant, cost_s in state.usual_cost_s.items() if tenant in kept},
    )


def _start_tag(state: FairnessState, tenant: str) -> float:
    return max(state.virtual_time, state.finish_tags.get(tenant, 0.0))


def _usual_cost(spec: FairnessSpec, state: FairnessState, tenant: str) -> float:
    return state.usual_cost_s.get(tenant, spec.usual_cost_s)
