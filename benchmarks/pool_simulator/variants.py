"""The policies that are compared: Knative's window, fixed keep-alive, ours, and ours with each part left out.

Ours is the product's coordinator and its policy modules as they are; a part is left out by its own setting, or by
what the agent says of its models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pool_simulator import fixed_window, warm_pool
from pool_simulator.costs import Costs
from pool_simulator.frontier import Figures, figures
from pool_simulator.request_trace import Trace

KNATIVE = "Knative's window, vLLM's server"
FIXED = "fixed keep-alive, our fork"
OURS = "ours, slots given back"
AS_SHIPPED = "ours, as shipped"
# Knative's stable window is 60 s, from 6 s to 1 h; its grace period comes on top.
WINDOWS_S = (6.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
WINDOW_S, GRACE_S = 60.0, 30.0
KEEPS_S = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
PRICES = (10.0, 40.0, 160.0, 640.0)
# Of what holds its few slots all the time whatever a cold start is worth.
FEW_PRICES = (40.0, 640.0)
IDLES_S = (300.0, 900.0, KeepAliveSpec().uncontested_s)
_NEVER = 10**9


@dataclass(frozen=True, slots=True)
class Variant:
    """`prices`: slot-seconds that one avoided cold start is worth. `idles_s`: how long an engine may be idle in a slot
    that nobody else wants. The longer of the two is swept, the other has one value."""

    name: str
    spec: warm_pool.PoolSpec
    prices: Sequence[float] = PRICES
    idles_s: Sequence[float] = (0.0,)

    def sweep(self, trace: Trace) -> Iterator[Figures]:
        for price, idle_s in itertools.product(self.prices, self.idles_s):
            keep = replace(self.spec.keep, price_slot_s=price, uncontested_s=idle_s)
            knob = f"idle {idle_s:g} s" if len(self.idles_s) > len(self.prices) else f"{price:g}"
            yield figures(warm_pool.simulate(trace, replace(self.spec, keep=keep), self.name), knob)


def knative(trace: Trace, costs: Costs) -> list[Figures]:
    """A pod per endpoint, as Knative keeps it."""
    return [
        figures(fixed_window.simulate(trace, window_s + GRACE_S, costs.server_s, KNATIVE), f"{window_s:g} s")
        for window_s in WINDOWS_S
    ]


def fixed(trace: Trace, costs: Costs) -> list[Figures]:
    """An engine per endpoint, kept for a fixed time, that comes as fast as ours does."""
    return [figures(fixed_window.simulate(trace, keep_s, costs.fork_s, FIXED), f"{keep_s:g} s") for keep_s in KEEPS_S]


def ours(costs: Costs, slots: int) -> list[Variant]:
    """The whole policy first. It gives slots back when keep-alive ends, as Knative does, and so do those with a part
    left out; as shipped, it keeps engines in slots that nobody else wants."""
    base = warm_pool.PoolSpec(costs, slots=slots)
    default = (base.keep.price_slot_s,)
    blind = replace(base.keep, min_gaps=_NEVER, max_standard_keep_alive_s=math.inf)
    found = [
        Variant(OURS, base),
        Variant(AS_SHIPPED, base, prices=default, idles_s=IDLES_S),
        Variant(f"{AS_SHIPPED}, a fixed time", replace(base, keep=blind), prices=default, idles_s=IDLES_S),
        Variant("without sharing between tenants", replace(base, isolation="dedicated"), prices=FEW_PRICES),
        Variant("without swap", replace(base, swappable=False), prices=FEW_PRICES),
        Variant("without the histogram (a fixed time)", replace(base, keep=blind)),
    ]
    if costs.sleepers:
        found.append(Variant("without sleep", replace(base, costs=replace(costs, sleepers=0))))
    return found
