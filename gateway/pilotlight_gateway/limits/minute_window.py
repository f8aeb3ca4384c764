"""How much was taken in the last 60 seconds, in buckets of one second. Pure: the time is passed in.

Whatever minute one looks at, no more than the limit was taken in it. A bucket falls out when all of it is 60 s old.
"""

from __future__ import annotations

from collections import deque

from pilotlight_gateway.limits.limit_terms import WINDOW_S


class MinuteWindow:
    __slots__ = ("_buckets", "_oldest", "used")

    def __init__(self) -> None:
        self._buckets: deque[list[int]] = deque()
        self._oldest = 0
        self.used = 0

    def roll(self, second: int) -> None:
        """Forget what is out of the window."""
        self._oldest = second - WINDOW_S
        while self._buckets and self._buckets[0][0] < self._oldest:
            self.used -= self._buckets.popleft()[1]

    def add(self, second: int, amount: int) -> None:
        """Take `amount` in the bucket of `second`, or give it back where negative; what fell out is let be."""
        if second < self._oldest:
            return
        if self._buckets and second < self._buckets[-1][0]:
            for bucket in reversed(self._buckets):
                if bucket[0] == second:
                    bucket[1] += amount
                    self.used += amount
                    return
            return
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0])
        self._buckets[-1][1] += amount
        self.used += amount

    def fits_in_s(self, now_s: float, amount: int, limit: int) -> float:
        """Seconds until `amount`, which is no more than `limit`, fits under it; 0 where it does now."""
        over = self.used + amount - limit
        if over <= 0:
            return 0.0
        for second, taken in self._buckets:
            over -= taken
            if over <= 0:
                return _falls_out_in_s(second, now_s)
        return float(WINDOW_S)

    def empty_in_s(self, now_s: float) -> float:
        for second, taken in reversed(self._buckets):
            if taken > 0:
                return _falls_out_in_s(second, now_s)
        return 0.0


def _falls_out_in_s(second: int, now_s: float) -> float:
    return second + WINDOW_S + 1 - now_s
