"""Names the boot phase that runs and keeps how long each one took."""

from __future__ import annotations

import time
from collections.abc import Callable


class BootClock:
    """`on_phase` is told each phase as it begins; `phases_s` has those that have ended."""

    def __init__(self, on_phase: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.phases_s: dict[str, float] = {}
        self._on_phase = on_phase
        self._clock = clock
        self._phase: str | None = None
        self._since_s = clock()

    def enter(self, phase: str) -> None:
        now_s = self._clock()
        if self._phase is not None:
            self.phases_s[self._phase] = round(self.phases_s.get(self._phase, 0.0) + now_s - self._since_s, 3)
        self._phase, self._since_s = phase, now_s
        self._on_phase(phase)
