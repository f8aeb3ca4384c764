"""How long to keep what is idle: the idle histogram, layer by layer.

An idle endpoint's engine can fall through layers (RainbowCake, ASPLOS'24), each cheaper to hold, dearer to leave:

    layer            holds                    way back        kept while
    loaded           a slot, its own weights  nothing         nobody else wants the engine (those used longest ago
                                                              are overwritten)
    engine process   a slot                   swap            the fingerprint's histogram says it pays (`decide`)
    weights in RAM   RAM of the budget        fork            greedy-dual over the RAM budget
    weights on disk  disk of the budget       fork + disk     greedy-dual over the disk budget

Only the first two hold a slot. Since engines of one fingerprint stand in for one another, what is decided is not one
endpoint's keep-alive but that of the k-th engine of a fingerprint: the `key` is (fingerprint, k), its gaps are the
times during which fewer than k of the fingerprint's endpoints had work. With one endpoint per fingerprint this is
exactly the per-endpoint histogram of Serverless in the Wild (ATC'20).

With a representative histogram the cheapest time to hold wins, in slot-seconds:

    cost(keep t) = E[min(gap, t)] + price x P(gap > t)

`price` (slot-seconds that one avoided cold start is worth) is the one knob. Not representative: the standard
keep-alive, which is the price itself (holding for as long as a cold start costs is at most twice the best that anybody
could do who knows nothing: the ski-rental bound).

Nothing is booted ahead on a guess: neither ATC'20's prewarm before the low percentile of the gaps nor a profile of the
day saved a cold start on the public traces (docs/benchmarks.md). Who knows better writes a schedule. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_pool.policy.keep_warm.idle_histogram import (
    LOWER_S,
    UPPER_S,
    IdleHistogram,
    is_representative,
)


@dataclass(frozen=True, slots=True)
class KeepAliveSpec:
    """`price_slot_s`: the knob, 0 keeps nothing. `uncontested_s`: how long an engine may be idle after its keep-alive
    in a slot that nobody else wants (`uncontested`)."""

    price_slot_s: float = 300.0
    min_gaps: int = 8
    max_out_of_bounds: float = 0.5
    max_standard_keep_alive_s: float = 600.0
    uncontested_s: float = 3600.0

    @property
    def standard_keep_alive_s(self) -> float:
        """Where nothing is known."""
        return min(self.price_slot_s, self.max_standard_keep_alive_s)


@dataclass(frozen=True, slots=True)
class KeepAlivePlan:
    """For one gap: hold until `keep_s` seconds after it began. `basis`: which rule spoke."""

    keep_s: float
    basis: str
    reason: str


def decide(spec: KeepAliveSpec, histogram: IdleHistogram) -> KeepAlivePlan:
    """The plan for a gap that begins now. Call it once per gap: it looks at no clock."""
    if spec.price_slot_s <= 0.0:
        return KeepAlivePlan(0.0, "price", "a cold start is worth nothing: release at once")
    if not is_representative(histogram, spec.min_gaps, spec.max_out_of_bounds):
        keep_s = spec.standard_keep_alive_s
        why = f"{histogram.count} gaps seen, not representative: the standard keep-alive of {keep_s:.0f} s"
        return KeepAlivePlan(keep_s, "standard", why)
    cost, keep_s = _best_keep(spec, histogram)
    why = f"of {histogram.count} gaps: keep for {keep_s:.0f} s, {cost:.0f} expected slot-seconds"
    return KeepAlivePlan(keep_s, "histogram", why)


def _best_keep(spec: KeepAliveSpec, histogram: IdleHistogram) -> tuple[float, float]:
    """(cost, seconds): the cheapest time to hold from the start of the gap."""
    total = histogram.total
    best = (spec.price_slot_s, 0.0)
    ended, ended_s = 0.0, 0.0
    for weight, lower_s, upper_s in zip(histogram.weights, LOWER_S, UPPER_S, strict=True):
        if weight == 0.0:
            continue
        ended += weight
        ended_s += weight * (lower_s + upper_s) / 2
        cost = ended_s / total + (total - ended) / total * (upper_s + spec.price_slot_s)
        best = min(best, (cost, upper_s))
    return best
