"""How long endpoints take to answer from cold, as seen by this gateway: a moving average for each, and never more than
the last one took: whoever is refused for it cannot show that it takes less by now. Pure.

What the warm pool told of a start that is under way counts until then, where it is longer.
"""

from __future__ import annotations

from collections import OrderedDict

MOST_ENDPOINTS = 4096
_WEIGHT = 0.3

StartKey = tuple[str, str, str]
"""Namespace, endpoint, way."""


class StartTimes:
    def __init__(self) -> None:
        self._usual_s: OrderedDict[StartKey, float] = OrderedDict()
        self._told_s: OrderedDict[StartKey, float] = OrderedDict()

    def observe(self, key: StartKey, start_s: float) -> None:
        usual_s = self._usual_s.get(key, start_s)
        _put(self._usual_s, key, min(start_s, usual_s + _WEIGHT * (start_s - usual_s)))
        self._told_s.pop(key, None)

    def told(self, key: StartKey, eta_s: float, now_s: float) -> None:
        _put(self._told_s, key, now_s + eta_s)

    def predicted_s(self, key: StartKey, now_s: float) -> float | None:
        """None where nothing is known."""
        usual_s, told_s = self._usual_s.get(key), self._told_s.get(key)
        if told_s is None or told_s <= now_s:
            return usual_s
        return max(told_s - now_s, usual_s or 0.0)


def _put(kept: OrderedDict[StartKey, float], key: StartKey, value: float) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > MOST_ENDPOINTS:
        kept.popitem(last=False)
