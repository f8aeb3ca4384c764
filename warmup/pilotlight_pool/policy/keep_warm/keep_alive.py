"""How long to keep what is idle, and when to warm it again: the hybrid histogram, layer by layer.

An idle endpoint's engine can fall through layers (RainbowCake, ASPLOS'24), each cheaper to hold, dearer to leave:

    layer            holds                    way back        kept while
    loaded           a slot, its own weights  nothing         nobody else wants the engine (greedy-dual picks whose
                                                              weights are overwritten)
    engine process   a slot                   swap            the fingerprint's histogram says it pays (`decide`)
    weights in RAM   RAM of the budget        fork            greedy-dual over the RAM budget
    weights on disk  disk of the budget       fork + disk     greedy-dual over the disk budget

Only the first two hold a slot. Since engines of one fingerprint stand in for one another, what is decided is not one
endpoint's keep-alive but that of the k-th engine of a fingerprint: the `key` is (fingerprint, k), its gaps are the
times during which fewer than k of the fingerprint's endpoints had work. With one endpoint per fingerprint this is
exactly the per-endpoint histogram of Serverless in the Wild (ATC'20).

From a representative histogram come two windows, as in the paper: release at once and prewarm before the low percentile
of the gaps, and keep at most until the high one. Within them the cheapest plan wins:

    cost(keep t)            = E[min(gap, t)] + price x P(gap > t)
    cost(prewarm p, keep t) = E[time held between p and t] + price x (P(gap < p) + P(gap > t))

in slot-seconds; `price` (slot-seconds that one avoided cold start is worth) is the one knob. Not representative: the
standard keep-alive, which is the price itself (holding for as long as a cold start costs is at most twice the best
that anybody could do who knows nothing: the ski-rental bound). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_pool.policy.keep_warm.idle_histogram import (
    BIN_COUNT,
    LOWER_S,
    UPPER_S,
    IdleHistogram,
    is_representative,
    percentile_s,
)


@dataclass(frozen=True, slots=True)
class KeepAliveSpec:
    """`price_slot_s`: the knob, 0 keeps nothing. `boot_s`: predicted cold start; a prewarm begins that much earlier.

    Low percentile: ATC'20's. High: theirs is 99, which at a high price throws away what the cost above would keep (a
    level with a thousand gaps a day has ten beyond it); 100 leaves it to the cost (`make bench-policy` compares).
    """

    price_slot_s: float = 300.0
    low_percentile: float = 5.0
    high_percentile: float = 100.0
    min_gaps: int = 8
    max_out_of_bounds: float = 0.5
    boot_s: float = 29.0
    max_standard_keep_alive_s: float = 600.0


@dataclass(frozen=True, slots=True)
class KeepAlivePlan:
    """For one gap, in seconds since it began: hold until `keep_s`; if `prewarm_s` is set, boot again then and hold
    until `rewarmed_until_s`. `basis`: which rule spoke."""

    keep_s: float
    prewarm_s: float | None
    rewarmed_until_s: float | None
    basis: str
    reason: str


def decide(spec: KeepAliveSpec, histogram: IdleHistogram) -> KeepAlivePlan:
    """The plan for a gap that begins now. Call it once per gap: it looks at no clock."""
    if spec.price_slot_s <= 0.0:
        return KeepAlivePlan(0.0, None, None, "price", "a cold start is worth nothing: release at once")
    if not is_representative(histogram, spec.min_gaps, spec.max_out_of_bounds):
        keep_s = min(spec.price_slot_s, spec.max_standard_keep_alive_s)
        why = f"{histogram.count} gaps seen, not representative: the standard keep-alive of {keep_s:.0f} s"
        return KeepAlivePlan(keep_s, None, None, "standard", why)
    total = histogram.total
    latest_s = percentile_s(histogram, spec.high_percentile, upper=True)
    keep_cost, keep_s = _best_keep(spec, histogram, total, latest_s)
    warm_cost, begin_s, until_s = _best_prewarm(spec, histogram, total, latest_s)
    if warm_cost < keep_cost:
        boot_at_s = max(0.0, begin_s - spec.boot_s)
        why = (
            f"of {histogram.count} gaps {spec.low_percentile:g} % end before {begin_s:.0f} s: release, boot at "
            f"{boot_at_s:.0f} s, keep until {until_s:.0f} s; {warm_cost:.0f} expected slot-seconds instead of "
            f"{keep_cost:.0f}"
        )
        return KeepAlivePlan(0.0, boot_at_s, until_s, "prewarm", why)
    why = f"keep for {keep_s:.0f} s of at most {latest_s:.0f} s: {keep_cost:.0f} expected slot-seconds"
    return KeepAlivePlan(keep_s, None, None, "histogram", why)


def _best_keep(spec: KeepAliveSpec, histogram: IdleHistogram, total: float, latest_s: float) -> tuple[float, float]:
    """(cost, seconds): the cheapest time to hold from the start of the gap."""
    best = (spec.price_slot_s, 0.0)
    ended, ended_s = 0.0, 0.0
    for index in range(BIN_COUNT):
        weight = histogram.weights[index]
        until_s = UPPER_S[index]
        if until_s > latest_s:
            break
        ended += weight
        ended_s += weight * _middle_s(index)
        if weight == 0.0:
            continue
        open_share = (total - ended) / total
        cost = ended_s / total + open_share * (until_s + spec.price_slot_s)
        best = min(best, (cost, until_s))
    return best


def _best_prewarm(
    spec: KeepAliveSpec, histogram: IdleHistogram, total: float, latest_s: float
) -> tuple[float, float, float]:
    """(cost, begin, end): hold only from the low percentile on. Worth it only if a boot fits in before."""
    begin_s = percentile_s(histogram, spec.low_percentile, upper=False)
    if begin_s < 2 * spec.boot_s:
        return float("inf"), 0.0, 0.0
    best = (float("inf"), 0.0, 0.0)
    missed = sum(weight for index, weight in enumerate(histogram.weights) if UPPER_S[index] <= begin_s)
    ended, held_s = missed, 0.0
    for index in range(BIN_COUNT):
        if LOWER_S[index] < begin_s:
            continue
        weight = histogram.weights[index]
        until_s = UPPER_S[index]
        if until_s > latest_s:
            break
        ended += weight
        held_s += weight * (_middle_s(index) - begin_s + spec.boot_s)
        open_share = (total - ended) / total
        hold = held_s / total + open_share * (until_s - begin_s + spec.boot_s)
        best = min(best, (hold + spec.price_slot_s * (missed / total + open_share), begin_s, until_s))
    return best


def _middle_s(index: int) -> float:
    return (LOWER_S[index] + UPPER_S[index]) / 2
