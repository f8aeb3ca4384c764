"""How long endpoints take to answer from cold, as seen by this gateway: a moving average for each, and never more than
the last one took: whoever is refused for it cannot show that it takes less by now. Of the last few the quickest is
known, too: one endpoint boots once and is swapped in the next time, and no average tells which it will be. Pure.

What the warm pool told of a start that is under way counts until then, where it is longer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TypeVar

MOST_ENDPOINTS = 4096
LAST_STARTS = 8
_WEIGHT = 0.3
_T = TypeVar("_T")

StartKey = tuple[str, str, str]
"""Namespace, endpoint, way."""


class StartTimes:
    def __init__(self) -> None:
        self._usual_s: OrderedDict[StartKey, float] = OrderedDict()
        self._last_s: OrderedDict[StartKey, deque[float]] = OrderedDict()
        self._told_s: OrderedDict[StartKey, float] = OrderedDict()

    def observe(self, key: StartKey, start_s: float) -> None:
        usual_s = self._usual_s.get(key, start_s)
        _put(self._usual_s, key, min(start_s, usual_s + _WEIGHT * (start_s - usual_s)))
        last_s = self._last_s.get(key) or deque(maxlen=LAST_STARTS)
        last_s.append(start_s)
        _put(self._last_s, key, last_s)
        self._told_s.pop(key, None)

    def told(self, key: StartKey, eta_s: float, now_s: float) -> None:
        _put(self._told_s, key, now_s + eta_s)

    def predicted_s(self, key: StartKey, now_s: float) -> float | None:
        """None where nothing is known."""
        return self._as_told(key, self._usual_s.get(key), now_s)

    def at_best_s(self, key: StartKey, now_s: float) -> float | None:
        """As the quickest of the last few. None where nothing is known."""
        return self._as_told(key, min(self._last_s.get(key, ()), default=None), now_s)

    def _as_told(self, key: StartKey, start_s: float | None, now_s: float) -> float | None:
        told_s = self._told_s.get(key)
        if told_s is None or told_s <= now_s:
            return start_s
        return max(told_s - now_s, start_s or 0.0)


def _put(kept: OrderedDict[StartKey, _T], key: StartKey, value: _T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MOST_ENDPOINTS:
        kept.popitem(last=False)
