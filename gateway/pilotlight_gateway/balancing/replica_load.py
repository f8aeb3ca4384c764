"""How much work one replica has: what this process sent it, counted as it happens, and what the engine says of others'.

Own work is known at once and exactly; an engine's word is a second old, and says nothing any more after a few. So it
only adds what others have sent, less and less as it ages: without it the own counts remain. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pilotlight_gateway.balancing.engine_metrics import EngineMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """`stale_s`: an older word of an engine counts nothing. `kv_watermark`: a cache that is fuller takes nothing new.
    `rate_weight`, `size_weight`: of a new measurement of tokens per second, and of tokens of a request."""

    stale_s: float = 5.0
    kv_watermark: float = 0.9
    rate_weight: float = 0.3
    size_weight: float = 0.1
    first_rate: float = 50.0
    first_size: float = 300.0


class ReplicaLoad:
    """`begin` and `end` a request, `passed` its tokens as they come. `full_until_s`: its cache is over the watermark as
    far as anybody knows."""

    __slots__ = ("_as_of_s", "_generated", "_measured", "_others", "_settings") + (
        ("full_until_s", "rate", "requests", "size", "tokens")
    )

    def __init__(self, settings: LoadSettings = LoadSettings()) -> None:
        self._settings = settings
        self._as_of_s = -math.inf
        self._generated = math.inf
        self._measured = False
        self._others = 0.0
        self.full_until_s = -math.inf
        self.tokens = 0.0
        self.requests = 0
        self.rate = settings.first_rate
        self.size = settings.first_size

    def begin(self, tokens: float) -> None:
        self.tokens += tokens
        self.requests += 1

    def end(self, left: float, whole: float) -> None:
        """`left` of the tokens it began with were not passed; `whole`: what it took."""
        self.tokens = max(0.0, self.tokens - left)
        self.requests -= 1
        self.size += self._settings.size_weight * (whole - self.size)

    def passed(self, tokens: float) -> None:
        self.tokens = max(0.0, self.tokens - tokens)

    def tell(self, metrics: EngineMetrics, busy: bool) -> None:
        """What the engine said. `busy`: it had work all the time since it said something before."""
        settings, over_s = self._settings, metrics.as_of_s - self._as_of_s
        generated = metrics.generated - self._generated
        if busy and 0 < over_s < math.inf and generated > 0:
            weight = settings.rate_weight if self._measured else 1.0
            self.rate, self._measured = self.rate + weight * (generated / over_s - self.rate), True
        self._as_of_s, self._generated = metrics.as_of_s, metrics.generated
        self._others = max(0.0, metrics.requests - self.requests) * self.size
        is_full = metrics.kv_usage >= settings.kv_watermark
        self.full_until_s = metrics.as_of_s + settings.stale_s if is_full else -math.inf

    def wait_s(self, now_s: float) -> float:
        """Until what it has is done, as far as anybody knows."""
        if not self._others:
            return self.tokens / self.rate
        trust = 1.0 - (now_s - self._as_of_s) / self._settings.stale_s
        return (self.tokens + self._others * trust if trust > 0 else self.tokens) / self.rate
