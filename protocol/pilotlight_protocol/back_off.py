"""When what failed may be tried again: exponential back-off, capped, forgotten after what went well. Pure: time and
jitter come in."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Keeps a float from overflowing, whatever has failed for weeks.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True)
class BackOff:
    """The first failure in a row costs `first_s`, each further one twice as much, up to `longest_s`; the `free` first
    ones cost nothing. A failure after `forgotten_after_s` of what went well is a first one again."""

    first_s: float
    longest_s: float
    forgotten_after_s: float = math.inf
    free: int = 0

    def delay_s(self, failures: int, jitter: float = 1.0) -> float:
        """How long to wait after so many failures in a row. `jitter`: a random factor in [0, 1]."""
        doublings = failures - self.free - 1
        if doublings < 0:
            return 0.0
        return min(self.longest_s, self.first_s * 2.0 ** min(doublings, _MOST_DOUBLINGS)) * jitter


@dataclass(frozen=True, slots=True)
class Failures:
    """`count` in a row; no other try before `not_before_s`."""

    count: int = 0
    not_before_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next try; 0 for now."""
        return max(0.0, self.not_before_s - now_s)


def failed(back_off: BackOff, failures: Failures, now_s: float, went_well_s: float = 0.0) -> Failures:
    """`went_well_s`: for how long, before this failure."""
    count = 1 if went_well_s >= back_off.forgotten_after_s else failures.count + 1
    return Failures(count, now_s + back_off.delay_s(count))
