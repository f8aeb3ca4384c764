"""One step of a rollout: what the canary's requests and the baseline's came to, compared while they come. Pure.

Outcomes are compared in blocks of one of the canary's and k of the baseline's latest, each used once: both are of the
same time. Three things are compared: failed; began later than the baseline's median; than its 90th percentile. The
canary's times are divided by what is tolerated first. The thresholds come from the baseline's times before the block.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from pilotlight_gateway.rollout.two_samples import TwoSamples

MOST_OF_BASELINE = 4
"""In one block: more tell next to nothing, as what is known of the canary is what is rare."""

QUANTILES = (0.5, 0.9)
_RECENT = 256
_WAITING = 16
_BETWEEN_THRESHOLDS = 32


Seen = TypeVar("Seen")


class Evidence(msgspec.Struct):
    """Of one step; what survives a restart."""

    failures: TwoSamples = msgspec.field(default_factory=TwoSamples)
    slowness: list[TwoSamples] = msgspec.field(default_factory=lambda: [TwoSamples() for _ in QUANTILES])

    @property
    def log_slowness(self) -> float:
        """Of the mean of both."""
        logs = [each.log_evidence for each in self.slowness]
        most = max(logs)
        return most + math.log(sum(math.exp(each - most) for each in logs) / len(logs))


class Comparison:
    """`share`: of the canary, in percent."""

    def __init__(self, share: float, tolerated_ttft_ratio: float, evidence: Evidence) -> None:
        self.evidence = evidence
        # Fewer than there are of the baseline, or the canary's would wait for them longer and longer.
        self._k = max(1, min(MOST_OF_BASELINE, int(0.7 * (100 - share) / share)))
        self._tolerated = tolerated_ttft_ratio
        self._failures = _Blocks[bool](self._k)
        self._times = _Blocks[float](self._k)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._since_thresholds = 0
        self._thresholds: list[float] = []

    def observe(self, is_canary: bool, failed: bool, first_event_s: float | None) -> None:
        block = self._failures.add(is_canary, failed)
        if block is not None:
            self.evidence.failures.observe(*block)
        if first_event_s is None or failed:
            return
        times = self._times.add(is_canary, first_event_s / self._tolerated if is_canary else first_event_s)
        if times is not None:
            canary_s, baseline_s = times
            for test, threshold_s in zip(self.evidence.slowness, self._thresholds, strict=False):
                test.observe(canary_s > threshold_s, [each > threshold_s for each in baseline_s])
        if not is_canary:
            self._note_baseline(first_event_s)

    def _note_baseline(self, first_event_s: float) -> None:
        self._recent.append(first_event_s)
        self._since_thresholds += 1
        if self._since_thresholds >= _BETWEEN_THRESHOLDS:
            self._since_thresholds = 0
            ordered = sorted(self._recent)
            self._thresholds = [ordered[int(quantile * (len(ordered) - 1))] for quantile in QUANTILES]
            # What waits for a block was seen by the thresholds: it must not be judged by them.
            self._times = _Blocks[float](self._k)


class _Blocks(Generic[Seen]):
    """Pairs each of the canary's with k of the baseline's latest, in the order in which they came."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._canary: deque[Seen] = deque(maxlen=_WAITING)
        self._baseline: deque[Seen] = deque(maxlen=MOST_OF_BASELINE)

    def add(self, is_canary: bool, seen: Seen) -> tuple[Seen, Sequence[Seen]] | None:
        (self._canary if is_canary else self._baseline).append(seen)
        if not self._canary or len(self._baseline) < self._k:
            return None
        return self._canary.popleft(), [self._baseline.pop() for _ in range(self._k)]
