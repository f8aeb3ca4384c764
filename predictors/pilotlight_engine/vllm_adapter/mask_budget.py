"""What one constrained choice may take of everybody's steps. Pure, but for the clock it is given.

A step waits for all masks. One that takes long is an accident or a bomb; many that each take a little too long (an
ambiguous grammar grows dearer with every token) cost the other requests as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_MASK_S = 0.5
"""CPU time of one token's mask, or of its acceptance."""
ORDINARY_S = 0.02
"""Is never counted: the first mask of a rule may take it, with a large vocabulary."""
MOST_EXTRA_S = 4.0
"""Of all tokens of a choice together, beyond the ordinary."""


class MaskBudget:
    """`cpu_s`: the calling thread's CPU time."""

    def __init__(self, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._cpu_s = cpu_s
        self._began_s = 0.0
        self._extra_s = 0.0

    def begin(self) -> None:
        self._began_s = self._cpu_s()

    def end(self) -> str:
        """Why it is too much, or ""."""
        took_s = self._cpu_s() - self._began_s
        self._extra_s += max(0.0, took_s - ORDINARY_S)
        if took_s > MOST_MASK_S:
            return "it is too expensive to enforce: the next token's mask takes too long"
        if self._extra_s > MOST_EXTRA_S:
            return "it is too expensive to enforce: its tokens' masks take too long together"
        return ""
