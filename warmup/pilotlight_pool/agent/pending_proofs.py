"""Which proof of a swap is made next: two models of a combination have met on this node, and no verdict is known.

Pure: told what boots, asked while a slot has nothing to do. Bounded: what was met longest ago is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_protocol.swap_proofs import Combination, Verdict

MOST_FINGERPRINTS = 256
# A proof that gave way is tried again soon; what could not be tried may be possible with two other models.
AGAIN_S = 30.0
FAILED_AGAIN_S = 3600.0


@dataclass
class _Met:
    """Models of one fingerprint, the two that were met last, by the key of their bytes."""

    orders: OrderedDict[str, EngineOrder] = field(default_factory=OrderedDict)


class PendingProofs:
    """`verdict`: what is known of a combination."""

    def __init__(self, verdict: Callable[[Combination | None], Verdict | None]) -> None:
        self._verdict = verdict
        self._met: OrderedDict[str, _Met] = OrderedDict()
        self._not_before_s: dict[str, float] = {}

    def met(self, order: EngineOrder) -> None:
        """An engine was booted for it. What is swapped without a proof waits until somebody asks for one."""
        facts = order.facts
        if facts.combination is None or facts.swappable or self._verdict(facts.combination) in ("proven", "refuted"):
            return
        met = self._met.setdefault(facts.fingerprint, _Met())
        self._met.move_to_end(facts.fingerprint)
        met.orders[facts.key] = order
        met.orders.move_to_end(facts.key)
        while len(met.orders) > 2:
            met.orders.popitem(last=False)
        while len(self._met) > MOST_FINGERPRINTS:
            self._met.popitem(last=False)

    def next(self, memory_bytes: int, now_s: float) -> tuple[EngineOrder, EngineOrder] | None:
        """Two models to be proven in a slot of this size, now."""
        for met in reversed(self._met.values()):
            if len(met.orders) < 2:
                continue
            a, b = met.orders.values()
            combination = a.facts.combination
            if combination is None or self._verdict(combination) in ("proven", "refuted"):
                continue
            fits = max(a.facts.memory_bytes, b.facts.memory_bytes) <= memory_bytes
            if fits and now_s >= self._not_before_s.get(combination.key, 0.0):
                return a, b
        return None

    def wait(self, combination: Combination, now_s: float, seconds: float) -> None:
        """Not again before then."""
        self._not_before_s[combination.key] = now_s + seconds
        while len(self._not_before_s) > MOST_FINGERPRINTS:
            del self._not_before_s[next(iter(self._not_before_s))]
