"""How many requests an endpoint's engines answer at once, as far as is known. Pure: the time is passed in.

It starts with what the endpoint says of itself. An upstream that refuses for lack of room is believed: the limit goes
below what was in flight, once for all that was sent before; while the limit is what holds requests back, and they are
answered, it rises again by one for each round of them (additive increase, multiplicative decrease).
"""

from __future__ import annotations

DECREASE = 0.9
LOWEST_SHARE = 8
"""An upstream that fails is no small one: the limit stays above this part of the ceiling."""


class UpstreamCapacity:
    __slots__ = ("_cut_s", "ceiling", "limit")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = float(ceiling)
        self._cut_s = float("-inf")

    def set_ceiling(self, ceiling: int) -> None:
        """There are more or fewer replicas."""
        self.limit = max(1.0, self.limit * ceiling / self.ceiling)
        self.ceiling = ceiling

    def refused(self, started_s: float, in_flight: int, now_s: float) -> None:
        """A request that started then was refused for lack of room; `in_flight`: with it."""
        if started_s <= self._cut_s:
            return
        self._cut_s = now_s
        self.limit = max(1.0, self.ceiling / LOWEST_SHARE, min(self.limit, in_flight) * DECREASE)

    def answered(self, in_flight: int) -> None:
        """`in_flight`: with it."""
        if self.limit < self.ceiling and in_flight >= int(self.limit):
            self.limit = min(float(self.ceiling), self.limit + 1 / self.limit)
