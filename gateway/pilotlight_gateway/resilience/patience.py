"""How long a stream may say nothing before somebody else is asked for the rest. Pure.

It adapts to the stream's own gaps: many times the longest of late, within bounds. Before the first tokens it does not
count: a long prompt is work, and no stall.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PatienceSettings:
    """`factor`: of the longest gap of late; `forgetting`: what is left of that with each new gap."""

    floor_s: float = 5.0
    ceiling_s: float = 60.0
    factor: float = 20.0
    forgetting: float = 0.99


class Patience:
    def __init__(self, settings: PatienceSettings) -> None:
        self.settings = settings
        self._longest_s = 0.0

    def note(self, gap_s: float) -> None:
        self._longest_s = max(gap_s, self._longest_s * self.settings.forgetting)

    @property
    def patience_s(self) -> float:
        settings = self.settings
        return min(settings.ceiling_s, max(settings.floor_s, settings.factor * self._longest_s))
