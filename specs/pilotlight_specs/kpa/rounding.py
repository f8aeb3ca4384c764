"""Go's `math.Round`: half away from zero, where Python's `round` goes to the even neighbour. Pure arithmetic."""

from __future__ import annotations

import math


def round_half_away(value: float) -> float:
    """The nearest whole number, of two equally near ones the one farther from zero."""
    whole = math.trunc(value)
    return float(whole) if abs(value - whole) < 0.5 else whole + math.copysign(1.0, value)


def round_to_digits(digits: int, value: float) -> float:
    """Knative's `roundToNDigits` (`pkg/autoscaler/aggregation/bucketing.go`)."""
    scale = 10.0**digits
    return round_half_away(value * scale) / scale
