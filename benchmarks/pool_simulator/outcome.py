"""What a policy did with a trace: the same figures for all of them.

A request's *wait* is its added latency: from its arrival until a ready engine holds its endpoint's weights. A *cold
start* is a request that waits longer than `COLD_S`, whatever for (a boot, or the rest of a boot that another request
began). Requests that waited for a swap only are counted on their own. *Slot-seconds*: accelerator slots held, from the
beginning of a boot until the engine is gone, until the trace ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COLD_S = 5.0


@dataclass
class Outcome:
    """`waits_s` holds the positive waits only."""

    policy: str
    requests: int
    waits_s: list[float] = field(default_factory=list)
    slot_seconds: float = 0.0
    boots: int = 0
    swap_waits_s: list[float] = field(default_factory=list)
    peak_slots: int = 0

    def slower_than(self, seconds: float) -> float:
        """Share of requests that waited longer than `seconds`."""
        return sum(wait > seconds for wait in self.waits_s) / max(1, self.requests)

    @property
    def cold_rate(self) -> float:
        return self.slower_than(COLD_S)

    def percentile_s(self, percent: float) -> float:
        """Added latency that `percent` of the requests stay within, seconds."""
        rank = int(self.requests * percent / 100.0) - (self.requests - len(self.waits_s))
        return sorted(self.waits_s)[min(rank, len(self.waits_s) - 1)] if rank >= 0 and self.waits_s else 0.0

    @property
    def swap_p99_s(self) -> float:
        ranked = sorted(self.swap_waits_s)
        return ranked[int(0.99 * (len(ranked) - 1))] if ranked else 0.0
