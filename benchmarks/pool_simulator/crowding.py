"""How many tenants a slot carries: the same trace with more and more of its endpoints on so many slots.

Only what arrives after the first quarter counts: a pool that has just been started boots an engine in every slot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pool_simulator import warm_pool
from pool_simulator.costs import Costs
from pool_simulator.request_trace import Trace
from pool_simulator.trace_catalog import some_endpoints

SLOTS = (1, 2, 4, 8)
PER_SLOT = (2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Crowd:
    slots: int
    tenants: int
    p99_s: float


def crowds(trace: Trace, costs: Costs, bound_s: float, slot_counts: Sequence[int] = SLOTS) -> Iterator[Crowd]:
    """One row of rising tenants for each number of slots, until p99 is twice the bound or the trace has no more."""
    for slots in slot_counts:
        for tenants in sorted({min(slots * per_slot, len(trace.endpoints)) for per_slot in PER_SLOT}):
            part = some_endpoints(trace, tenants)
            outcome = warm_pool.simulate(part, warm_pool.PoolSpec(costs, slots=slots), "ours", part.horizon_s / 4)
            crowd = Crowd(slots, tenants, outcome.percentile_s(99))
            yield crowd
            if crowd.p99_s > 2 * bound_s:
                break


def most_tenants(found: Sequence[Crowd], slots: int, bound_s: float) -> int:
    """The most that stayed within the bound, and everything below it did."""
    most = 0
    for crowd in found:
        if crowd.slots == slots:
            if crowd.p99_s >= bound_s:
                break
            most = crowd.tenants
    return most
