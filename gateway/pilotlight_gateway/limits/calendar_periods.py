"""Days and months of UTC that budgets are kept for. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

DAY_S = 86_400


def day_of(time_s: float) -> int:
    """Days since 1970."""
    return int(time_s // DAY_S)


@lru_cache(maxsize=64)
def month_of(day: int) -> int:
    """Months since 1970."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return (date.year - 1970) * 12 + date.month - 1


def day_left_s(time_s: float) -> float:
    return (day_of(time_s) + 1) * DAY_S - time_s


def month_left_s(time_s: float) -> float:
    following = month_of(day_of(time_s)) + 1
    start = datetime(1970 + following // 12, following % 12 + 1, 1, tzinfo=UTC)
    return start.timestamp() - time_s
