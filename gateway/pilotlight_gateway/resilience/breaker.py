"""Whether an upstream is worth a request: one breaker for each. Pure.

    closed     requests pass; at least `min_requests` in the window of which half failed open it
    open       none pass, for `open_s`, doubled each time in a row up to `longest_open_s`
    half open  one at a time passes; its success closes the breaker, its failure opens it again

An upstream that answers far later than it used to is `slow`: who has another choice takes that, but nobody is refused
for it. What says nothing of the upstream's health is not recorded at all (a cold start, a client that left) or is no
failure (a refusal for lack of room, which comes with a time to try again).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

Standing = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """`slow_factor`: so many times the usual time to the first byte, and `slow_margin_s` more, is slow; the usual one
    is known after `slow_after` answers. `recent_weight`, `usual_weight`: of a new answer in the two averages."""

    window_s: float = 10.0
    min_requests: int = 10
    failure_share: float = 0.5
    open_s: float = 2.0
    longest_open_s: float = 30.0
    slow_factor: float = 5.0
    slow_margin_s: float = 0.5
    slow_after: int = 20
    recent_weight: float = 0.3
    usual_weight: float = 0.02


class Breaker:
    """Whoever gets a permit from `admit` gives it back once with `succeeded`, `failed` or `abandoned`. One from before
    the breaker last opened or closed tells nothing any more."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._open_until_s: float | None = None
        self._opened_in_a_row = 0
        self._probing = False
        self._permit = 0
        self._answers = 0
        self._usual_s = 0.0
        self._recent_s = 0.0

    def standing(self, now_s: float) -> Standing:
        if self._open_until_s is None:
            return "closed"
        return "open" if now_s < self._open_until_s else "half_open"

    @property
    def is_closed(self) -> bool:
        return self._open_until_s is None

    def admits(self, now_s: float) -> bool:
        standing = self.standing(now_s)
        return standing == "closed" or (standing == "half_open" and not self._probing)

    def admit(self, now_s: float) -> int | None:
        """A permit for one request."""
        if not self.admits(now_s):
            return None
        self._probing = self.standing(now_s) == "half_open"
        return self._permit

    def retry_after_s(self, now_s: float) -> float:
        """After which time it is worth asking again."""
        return max(0.0, (self._open_until_s or now_s) - now_s)

    @property
    def slow(self) -> bool:
        settings = self._settings
        return (
            self._answers > settings.slow_after
            and self._recent_s > self._usual_s * settings.slow_factor + settings.slow_margin_s
        )

    def succeeded(self, permit: int, now_s: float, first_byte_s: float | None = None) -> None:
        """`first_byte_s`: how long it took, None where that tells nothing."""
        if permit != self._permit:
            return
        if first_byte_s is not None:
            self._observe(first_byte_s)
        if self._open_until_s is not None:
            self._close()
        self._record(now_s, failed=False)

    def failed(self, permit: int, now_s: float) -> None:
        if permit != self._permit:
            return
        if self._open_until_s is not None:
            self._open(now_s)
            return
        self._record(now_s, failed=True)
        settings = self._settings
        total = len(self._outcomes)
        if total >= settings.min_requests and self._failures >= total * settings.failure_share:
            self._open(now_s)

    def abandoned(self, permit: int) -> None:
        """Nothing was learned: the next one may find out."""
        if permit == self._permit:
            self._probing = False

    def _observe(self, first_byte_s: float) -> None:
        settings = self._settings
        self._answers += 1
        # While it learns, all answers count alike; later a bad spell moves what is usual but slowly.
        learning = self._answers <= settings.slow_after
        usual_weight = 1 / self._answers if learning else settings.usual_weight
        recent_weight = max(settings.recent_weight, 1 / self._answers)
        self._usual_s += usual_weight * (first_byte_s - self._usual_s)
        self._recent_s += recent_weight * (first_byte_s - self._recent_s)

    def _record(self, now_s: float, *, failed: bool) -> None:
        self._outcomes.append((now_s, failed))
        self._failures += failed
        while self._outcomes and self._outcomes[0][0] <= now_s - self._settings.window_s:
            self._failures -= self._outcomes.popleft()[1]

    def _open(self, now_s: float) -> None:
        settings = self._settings
        # The exponent is bounded, so that no run of failures overflows a float.
        open_s = min(settings.longest_open_s, settings.open_s * 2 ** min(self._opened_in_a_row, 16))
        self._opened_in_a_row += 1
        self._open_until_s = now_s + open_s
        self._probing = False
        self._permit += 1

    def _close(self) -> None:
        self._open_until_s = None
        self._opened_in_a_row = 0
        self._probing = False
        self._permit += 1
        self._outcomes.clear()
        self._failures = 0
