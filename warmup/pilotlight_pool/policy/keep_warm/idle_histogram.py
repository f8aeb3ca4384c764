"""How long an endpoint (or one level of demand for a fingerprint) stays idle: a histogram with logarithmic bins.

Serverless in the Wild (ATC'20) keeps one histogram per application, with one-minute bins over four hours. Engines come
back in a second and are held for hours, so bins here grow by 2^(1/4) (19 %) from 1 s to 36 h; what is longer counts
in the last bin. Older gaps fade (`fade` per new gap): a changed habit is learned in about a thousand
gaps, and the rare long ones are not forgotten for it.
Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_PER_DOUBLING = 4
BIN_COUNT = 17 * _PER_DOUBLING + 1
UPPER_S: tuple[float, ...] = tuple(2.0 ** (index / _PER_DOUBLING) for index in range(BIN_COUNT))
LOWER_S: tuple[float, ...] = (0.0, *UPPER_S[:-1])


@dataclass(frozen=True, slots=True)
class IdleHistogram:
    """`weights[i]`: faded count of gaps in (LOWER_S[i], UPPER_S[i]]. `count`: all gaps ever seen."""

    weights: tuple[float, ...] = (0.0,) * BIN_COUNT
    count: int = 0

    @property
    def total(self) -> float:
        return math.fsum(self.weights)


def record(histogram: IdleHistogram, gap_s: float, fade: float = 0.999) -> IdleHistogram:
    """The histogram after one more gap of `gap_s` seconds."""
    weights = [weight * fade for weight in histogram.weights]
    weights[bin_of(gap_s)] += 1.0
    return IdleHistogram(tuple(weights), histogram.count + 1)


def bin_of(gap_s: float) -> int:
    """Index of the bin that holds `gap_s`."""
    if gap_s <= 1.0:
        return 0
    return min(BIN_COUNT - 1, math.ceil(math.log2(gap_s) * _PER_DOUBLING))


def is_representative(histogram: IdleHistogram, min_gaps: int, max_out_of_bounds: float) -> bool:
    """False while there are too few gaps, or too many of them are beyond the last bin (ATC'20, section 4.2).

    The paper also asks for a coefficient of variation over its bins; here the expected cost that `keep_alive` weighs
    already prefers to release where the gaps say nothing.
    """
    total = histogram.total
    return histogram.count >= min_gaps and total > 0.0 and histogram.weights[-1] / total <= max_out_of_bounds
