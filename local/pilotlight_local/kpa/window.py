"""Time windows of the autoscaler: the averaged metric window, and the maximum window of scale-down delay.

Pure: every function takes the time. Times are seconds of one monotonic clock, buckets are whole seconds of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pilotlight_specs.kpa.rounding import round_to_digits

BUCKET_S = 1.0
_ROUND_DIGITS = 6
_LEAST_DECAY = 0.2
_LEAST_WEIGHT = 0.9999


@dataclass(frozen=True, slots=True)
class MetricWindow:
    """A sliding window of one-second buckets (Knative's TimedFloat64Buckets), newest last, gaps counting as zero.

    `first` and `last` are the buckets of the first and the last write since the window was last wholly empty.
    """

    size: int
    buckets: tuple[tuple[int, float], ...] = ()
    first: int = 0
    last: int = 0

    def record(self, now_s: float, value: float) -> MetricWindow:
        """Add `value` to the bucket of `now_s`. Late writes within the window count, older ones are dropped."""
        bucket = math.floor(now_s / BUCKET_S)
        if not self.buckets or bucket - self.last >= self.size:
            return replace(self, buckets=((bucket, value),), first=bucket, last=bucket)
        if bucket <= self.last - self.size:
            return self
        last = max(self.last, bucket)
        merged = {index: total for index, total in self.buckets if index > last - self.size}
        merged[bucket] = merged.get(bucket, 0.0) + value
        return replace(self, buckets=tuple(sorted(merged.items())), first=min(self.first, bucket), last=last)

    def is_empty(self, now_s: float) -> bool:
        """True when nothing was written during the window, so that there is nothing to decide on."""
        return not self.buckets or math.floor(now_s / BUCKET_S) - self.last > self.size

    def average(self, now_s: float) -> float:
        """Mean over the part of the window that has filled: seconds since the first write, at most the window."""
        now = math.floor(now_s / BUCKET_S)
        silent = max(0, now - self.last)
        if not self.buckets or silent >= self.size:
            return 0.0
        oldest = max(now, self.last) - self.size
        total = sum(value for index, value in self.buckets if index > oldest)
        filled = min(self.last - self.first + 1, self.size - silent)
        return round_to_digits(_ROUND_DIGITS, total / filled)

    def weighted_average(self, now_s: float) -> float:
        """Exponentially weighted, the newest second most (Knative's WeightedFloat64Buckets): seconds before the first
        write count as zero."""
        if self.is_empty(now_s):
            return 0.0
        newest = max(math.floor(now_s / BUCKET_S), self.last)
        coefficient = smoothing_coefficient(self.size)
        ages = ((newest - index, value) for index, value in self.buckets)
        return sum(value * coefficient * math.pow(1 - coefficient, age) for age, value in ages if age < self.size)


def smoothing_coefficient(buckets: int) -> float:
    """The newest bucket's weight, such that all `buckets` weigh 0.9999 at least, and never below 0.2 (Knative)."""
    return max(_LEAST_DECAY, 1 - math.pow(1 - _LEAST_WEIGHT, 1 / buckets))


@dataclass(frozen=True, slots=True)
class MaxWindow:
    """The largest value of the last `size` ticks (Knative's max.TimeWindow), for `scale-down-delay`."""

    size: int
    granularity_s: float
    entries: tuple[tuple[int, int], ...] = ()

    def record(self, now_s: float, value: int) -> MaxWindow:
        index = math.floor(now_s / self.granularity_s)
        # A smaller, older value can never be the maximum again.
        kept = [entry for entry in self.entries if entry[1] > value and index - entry[0] < self.size]
        if any(entry[0] >= index for entry in kept):
            return replace(self, entries=tuple(kept))
        return replace(self, entries=(*kept, (index, value)))

    @property
    def current(self) -> int:
        return self.entries[0][1] if self.entries else 0


def max_window(delay_s: float, tick_s: float) -> MaxWindow:
    """The window that holds a scale-down back for `delay_s` with decisions every `tick_s`."""
    return MaxWindow(size=max(1, math.ceil(delay_s / tick_s)), granularity_s=tick_s)
