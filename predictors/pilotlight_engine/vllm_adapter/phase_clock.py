"""How long the phases of a swap took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class SwapReport:
    """`phases_s`: drain is the host's; inspect, weights, reset, defaults, check are here, in this order."""

    phases_s: dict[str, float]


class PhaseClock:
    """Seconds of each phase, in the order in which they ran."""

    def __init__(self) -> None:
        self.phases_s: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.phases_s[name] = round(time.perf_counter() - began_s, 6)
