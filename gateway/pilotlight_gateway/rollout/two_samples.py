"""Evidence that something happens more often to the canary than to the baseline, which may be looked at at any time.

A test by betting (Turner, Ly and Grünwald, "Generic e-variables for exact sequential k-sample tests that allow for
optional stopping", 2024). Outcomes come in blocks of one of the canary's and k of the baseline's. For rates c > b that
are guessed before the block, the block multiplies the evidence by

    P(outcomes at rates c, b) / P(outcomes at the one rate (c + k b) / (k + 1))

whose expectation is at most 1 whatever the true rates are, as long as the canary's is no higher. So the evidence passes
1/a with a probability of at most a, however long one looks (Ville's inequality). Nothing is approximated: it holds for
rare events and few requests, and where the rates change from block to block for both. The guesses: the baseline's rate
as seen so far, times one of `RATIOS`, or one of `RATES` alone; the evidence is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

RATIOS = (1.5, 2.0, 3.0, 6.0)
RATES = (0.3, 0.9)
_SEEN_BEFORE, _REQUESTS_BEFORE = 0.5, 20.0
"""What is thought of the baseline's rate before anything is seen, in requests."""
_LEAST, _MOST = 1e-4, 0.98


class TwoSamples(msgspec.Struct):
    """`logs`: the logarithm of the evidence by each guess. What was seen: of the canary's, of the baseline's."""

    logs: list[float] = msgspec.field(default_factory=lambda: [0.0] * (len(RATIOS) + len(RATES)))
    canary_events: int = 0
    canary_requests: int = 0
    baseline_events: int = 0
    baseline_requests: int = 0

    @property
    def log_evidence(self) -> float:
        most = max(self.logs)
        return most + math.log(sum(math.exp(each - most) for each in self.logs) / len(self.logs))

    def observe(self, canary: bool, baseline: Sequence[bool]) -> None:
        """One block."""
        seen = (self.baseline_events + _SEEN_BEFORE) / (self.baseline_requests + _REQUESTS_BEFORE)
        rate = min(_MOST, max(_LEAST, seen))
        events, k = sum(baseline), len(baseline)
        for place, guess in enumerate((*(rate * ratio for ratio in RATIOS), *RATES)):
            self.logs[place] += _log_factor(min(_MOST, guess), rate, canary, events, k)
        self.canary_events += canary
        self.canary_requests += 1
        self.baseline_events += events
        self.baseline_requests += k


def _log_factor(canary_rate: float, rate: float, canary: bool, events: int, k: int) -> float:
    if canary_rate <= rate:
        return 0.0
    one = (canary_rate + k * rate) / (k + 1)
    of_canary = math.log(canary_rate / one) if canary else math.log((1 - canary_rate) / (1 - one))
    return of_canary + events * math.log(rate / one) + (k - events) * math.log((1 - rate) / (1 - one))
