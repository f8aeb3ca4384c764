"""What a policy did with a trace: the same figures for all of them.

A request's *wait* is its added latency: from its arrival until a ready engine holds its endpoint's weights. What is
cold is said in two ways: it waited for longer than `COLD_S`, whatever for; or it waited for a boot (a fork too), its
own or the rest of one that another request began. *Slot-seconds*: accelerator slots held, from the beginning of a boot
until the engine is gone or asleep, until the trace ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

COLD_S = 1.0


@dataclass
class Outcome:
    """`waits_s` holds the positive waits only; `boot_waits`: how many of them were for a boot."""

    policy: str
    requests: int
    waits_s: list[float] = field(default_factory=list)
    boot_waits: int = 0
    slot_seconds: float = 0.0
    boots: int = 0
    swap_waits_s: list[float] = field(default_factory=list)
    peak_slots: int = 0

    @property
    def cold_rate(self) -> float:
        """Share of requests that waited longer than `COLD_S`."""
        return sum(wait > COLD_S for wait in self.waits_s) / max(1, self.requests)

    @property
    def boot_rate(self) -> float:
        """Share of requests that waited for a boot."""
        return self.boot_waits / max(1, self.requests)

    def percentile_s(self, percent: float) -> float:
        """Added latency that `percent` of the requests stay within, seconds."""
        rank = int(self.requests * percent / 100.0) - (self.requests - len(self.waits_s))
        return sorted(self.waits_s)[min(rank, len(self.waits_s) - 1)] if rank >= 0 and self.waits_s else 0.0
