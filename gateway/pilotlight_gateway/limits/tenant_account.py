"""One tenant's limits in the memory of one process: reserve, then settle exactly once. Pure: the time is passed in.

A reservation whose owner was lost expires: its place is free again, and its tokens stay taken, since nobody knows that
they were not made.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from pilotlight_gateway.limits.calendar_periods import DAY_S, day_left_s, day_of, month_left_s, month_of
from pilotlight_gateway.limits.limit_terms import Granted, LimitTerms, Refused, Spent, Standing
from pilotlight_gateway.limits.minute_window import MinuteWindow

CONCURRENCY_RETRY_S = 1.0
"""When a running request will end is not known."""


class _Open(msgspec.Struct):
    second: int
    tokens: int
    expires_s: float


class TenantAccount:
    """`settle` may be called with any id, any number of times: only the first one counts.

    `keep_s`: how long a reservation waits for it. `took`: is told each change of a day's tokens.
    """

    __slots__ = ("_day", "_days", "_keep_s", "_months", "_open", "_requests", "_rolled", "_tokens", "_took")

    def __init__(self, keep_s: float, took: Callable[[int, int], None] | None = None) -> None:
        self._keep_s = keep_s
        self._took = took
        self._rolled = self._day = -1
        self._requests = MinuteWindow()
        self._tokens = MinuteWindow()
        self._days: dict[int, int] = {}
        self._months: dict[int, int] = {}
        # In the order in which they expire: all are kept equally long.
        self._open: dict[str, _Open] = {}

    def reserve(self, terms: LimitTerms, reservation_id: str, tokens: int, now_s: float) -> Granted | Refused:
        self._roll(now_s)
        if reservation_id not in self._open:
            refused = self._why_not(terms, tokens, now_s)
            if refused is not None:
                return Refused(*refused, self._standing(now_s))
            second = math.floor(now_s)
            self._requests.add(second, 1)
            self._take(second, tokens)
            self._open[reservation_id] = _Open(second, tokens, now_s + self._keep_s)
        return Granted(self._standing(now_s))

    def settle(self, reservation_id: str, tokens: int, now_s: float) -> bool:
        """Commit `tokens` in place of what was reserved, in the second, day and month of the reservation."""
        self._roll(now_s)
        reserved = self._open.pop(reservation_id, None)
        if reserved is not None:
            self._take(reserved.second, tokens - reserved.tokens)
        return reserved is not None

    def book(self, day: int, tokens: int) -> None:
        """They were taken on that day, by somebody who is no more."""
        self._days[day] = self._days.get(day, 0) + tokens
        month = month_of(day)
        self._months[month] = self._months.get(month, 0) + tokens

    def _take(self, second: int, tokens: int) -> None:
        self._tokens.add(second, tokens)
        day = second // DAY_S
        self.book(day, tokens)
        if self._took is not None:
            self._took(day, tokens)

    def _why_not(self, terms: LimitTerms, tokens: int, now_s: float) -> tuple[Spent, float] | None:
        if terms.concurrency is not None and len(self._open) >= terms.concurrency:
            return "concurrency", CONCURRENCY_RETRY_S
        if terms.requests_per_minute is not None:
            wait_s = self._requests.fits_in_s(now_s, 1, terms.requests_per_minute)
            if wait_s > 0:
                return "requests_per_minute", wait_s
        if terms.tokens_per_minute is not None:
            wait_s = self._tokens.fits_in_s(now_s, tokens, terms.tokens_per_minute)
            if wait_s > 0:
                return "tokens_per_minute", wait_s
        if terms.tokens_per_day is not None and self._days.get(day_of(now_s), 0) + tokens > terms.tokens_per_day:
            return "tokens_per_day", day_left_s(now_s)
        if (
            terms.tokens_per_month is not None
            and self._months.get(month_of(day_of(now_s)), 0) + tokens > terms.tokens_per_month
        ):
            return "tokens_per_month", month_left_s(now_s)
        return None

    def _standing(self, now_s: float) -> Standing:
        return Standing(
            self._requests.used, self._tokens.used, self._requests.empty_in_s(now_s), self._tokens.empty_in_s(now_s)
        )

    def _roll(self, now_s: float) -> None:
        second = math.floor(now_s)
        if second == self._rolled:
            return
        self._rolled = second
        self._requests.roll(second)
        self._tokens.roll(second)
        while self._open:
            reservation_id, reserved = next(iter(self._open.items()))
            if reserved.expires_s > now_s:
                break
            del self._open[reservation_id]
        if day_of(second) != self._day:
            self._day = day_of(second)
            # One before this one may still be settled.
            _drop_before(self._days, self._day - 1)
            _drop_before(self._months, month_of(self._day) - 1)


def _drop_before(budget: dict[int, int], period: int) -> None:
    for old in [kept for kept in budget if kept < period]:
        del budget[old]
