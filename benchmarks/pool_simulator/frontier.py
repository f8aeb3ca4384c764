"""Policies at equal slot-hours: each is a sweep of its knob, read off between its two nearest points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pool_simulator.outcome import Outcome

_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is reported of one policy on one trace, at one setting of its knob."""

    policy: str
    knob: str
    slot_hours: float
    boot_rate: float
    cold_rate: float
    p50_s: float
    p99_s: float
    boots: int
    swapped_rate: float
    peak_slots: int


def figures(outcome: Outcome, knob: str) -> Figures:
    return Figures(
        outcome.policy,
        knob,
        outcome.slot_seconds / 3600,
        outcome.boot_rate,
        outcome.cold_rate,
        outcome.percentile_s(50),
        outcome.percentile_s(99),
        outcome.boots,
        len(outcome.swap_waits_s) / max(1, outcome.requests),
        outcome.peak_slots,
    )


def at_slot_hours(points: Sequence[Figures], slot_hours: float, rate: Callable[[Figures], float]) -> float | None:
    """The rate of a sweep at so many slot-hours: in the logarithms between its two nearest points. Beyond its most it
    is that point's, which took less; below its least there is nothing to read off: None."""
    ranked = sorted(points, key=lambda point: point.slot_hours)
    below = [point for point in ranked if point.slot_hours <= slot_hours]
    above = [point for point in ranked if point.slot_hours > slot_hours]
    if not below:
        return None
    if not above:
        return rate(below[-1])
    low, high = below[-1], above[0]
    share = math.log(slot_hours / low.slot_hours) / math.log(high.slot_hours / low.slot_hours)
    ends = (math.log(max(_LEAST, rate(low))), math.log(max(_LEAST, rate(high))))
    return math.exp((1 - share) * ends[0] + share * ends[1])
