"""How fast an endpoint works, and when who is turned away should come back. Pure: the time is passed in.

Whoever is turned away is told when the work ahead is done at the measured rate, with that of those turned away before:
so they do not come back together.
"""

from __future__ import annotations

import math

WINDOW_S = 10.0
RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 60.0
RETRY_AFTER_UNKNOWN_S = 5.0
FIRST_OUTPUT_GUESS_TOKENS = 256.0
_GUESS_WEIGHT = 0.05
_LATELY_S = 0.5


class WorkRate:
    """`usual_output_tokens`: how long answers have been, for requests that have not ended."""

    __slots__ = ("_away", "_away_s", "_lately", "_per_s", "_since_s", "usual_output_tokens")

    def __init__(self, now_s: float) -> None:
        self._per_s = 0.0
        self._lately = 0
        self._since_s = now_s
        self._away = 0.0
        self._away_s = now_s
        self.usual_output_tokens = FIRST_OUTPUT_GUESS_TOKENS

    def done(self, tokens: int, now_s: float) -> None:
        self._lately += tokens
        if now_s - self._since_s > _LATELY_S:
            self.per_s(now_s)

    def answered(self, output_tokens: float) -> None:
        """One answer of so many."""
        self.usual_output_tokens += _GUESS_WEIGHT * (output_tokens - self.usual_output_tokens)

    def per_s(self, now_s: float) -> float:
        fade = math.exp((self._since_s - now_s) / WINDOW_S)
        self._per_s = self._per_s * fade + self._lately / WINDOW_S
        self._since_s, self._lately = now_s, 0
        return self._per_s

    def takes_s(self, tokens: float, now_s: float) -> float:
        """For so many tokens of work."""
        rate = self.per_s(now_s)
        return RETRY_AFTER_UNKNOWN_S if rate <= 0 else min(RETRY_AFTER_MAX_S, tokens / rate)

    def turned_away(self, tokens: int, ahead_tokens: float, now_s: float) -> float:
        """When to come back: after `ahead_tokens` of others' work."""
        rate = self.per_s(now_s)
        if rate <= 0:
            return RETRY_AFTER_UNKNOWN_S
        before = max(0.0, self._away - (now_s - self._away_s) * rate)
        self._away, self._away_s = min(before + tokens, RETRY_AFTER_MAX_S * rate), now_s
        return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, (ahead_tokens + before) / rate))
