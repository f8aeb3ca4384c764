"""Forecast prewarm: the day's profile of a key says whether demand is likely in the next minutes.

The idle histogram cannot see a morning coming: the gap of a night is as long as the night. So for each key (an
endpoint, or a level of a fingerprint) a profile holds, per slice of the day, on which share of the last days a long gap
(`min_gap_s`) ended in it (an exponentially weighted mean, weekdays and weekends apart). Short gaps are the histogram's
business: counting them too would hold every busy hour warm from end to end. A slice is worth holding through when

    P(a long gap ends in the slice) x price >= slice length          in slot-seconds, the same price as keep_alive's

Pure; `now_s` is Unix time (UTC days: a local habit that follows daylight saving is re-learned in a week).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ForecastSpec:
    slice_s: float = 600.0
    min_gap_s: float = 3600.0
    smoothing: float = 0.25
    min_days: int = 2


@dataclass(frozen=True, slots=True)
class DayProfile:
    """`shares`: (weekend?, slice) -> mean share of days with demand, as of the day number in `seen`.

    A slice is only written when there is demand in it; days without any are accounted for when it is next read.
    """

    first_day: int | None = None
    shares: Mapping[tuple[bool, int], tuple[float, int]] = field(default_factory=dict)


def record(spec: ForecastSpec, profile: DayProfile, gap_s: float, now_s: float) -> DayProfile:
    """Demand came at `now_s` after a gap of `gap_s`. A second time in the same slice of a day changes nothing."""
    day, key = _place(spec, now_s)
    if gap_s < spec.min_gap_s:
        return profile
    share, seen = profile.shares.get(key, (0.0, -1))
    if seen == day:
        return profile
    faded = _faded(spec, share, seen, day, key[0])
    first_day = day if profile.first_day is None else profile.first_day
    shares = {**profile.shares, key: (faded + spec.smoothing * (1.0 - faded), day)}
    return replace(profile, first_day=first_day, shares=shares)


def probability(spec: ForecastSpec, profile: DayProfile, at_s: float) -> float:
    """Share of the last days of this kind on which there was demand in the slice around `at_s`; 0 while unknown."""
    day, key = _place(spec, at_s)
    if profile.first_day is None or day - profile.first_day < spec.min_days:
        return 0.0
    share, seen = profile.shares.get(key, (0.0, -1))
    if seen < 0:
        return 0.0
    # The mean starts at 0: divide by how much of it is filled by now, or habits would be believed only in weeks.
    days = max(1, _days_of_kind(profile.first_day, day, key[0]))
    filled = 1.0 - (1.0 - spec.smoothing) ** days
    return min(1.0, _faded(spec, share, seen, day, key[0]) / filled)


def is_worth_holding(spec: ForecastSpec, profile: DayProfile, at_s: float, price_slot_s: float) -> tuple[bool, str]:
    """(hold, reason) for the slice around `at_s`."""
    likely = probability(spec, profile, at_s)
    gain_s = likely * price_slot_s
    return gain_s >= spec.slice_s, (
        f"demand in this slice on {likely:.0%} of days: worth {gain_s:.0f} slot-seconds, it costs {spec.slice_s:.0f}"
    )


def _place(spec: ForecastSpec, now_s: float) -> tuple[int, tuple[bool, int]]:
    day = int(now_s // DAY_S)
    # Day 0 of Unix time was a Thursday.
    return day, ((day + 3) % 7 >= 5, int(now_s % DAY_S // spec.slice_s))


def _faded(spec: ForecastSpec, share: float, seen: int, day: int, weekend: bool) -> float:
    """The share after the days of this kind since `seen` on which there was no demand."""
    if seen < 0:
        return 0.0
    return share * (1.0 - spec.smoothing) ** max(0, _days_of_kind(seen + 1, day, weekend))


def _days_of_kind(first: int, end: int, weekend: bool) -> int:
    """Days in [first, end) that are weekend days, or that are not."""
    weeks, rest = divmod(max(0, end - first), 7)
    counted = weeks * (2 if weekend else 5)
    return counted + sum(((first + offset + 3) % 7 >= 5) == weekend for offset in range(rest))
