"""One tenant's account: what is admitted, how long the rest waits, and that each reservation is settled once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.limits.limit_terms import Granted, LimitTerms, Refused, rate_limit_headers, shown_duration
from pilotlight_gateway.limits.tenant_account import TenantAccount

# 28 November 2026, 12:00:00 UTC.
NOON_S = 1_795_867_200.0
KEEP_S = 600.0


def refused(told: Granted | Refused) -> tuple[str, Any]:
    assert isinstance(told, Refused), told
    return told.spent, told.retry_after_s


def test_a_minutes_requests_are_exact_and_come_back_as_they_went() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(requests_per_minute=3)
    for number, at_s in enumerate((0.0, 10.5, 20.0)):
        assert isinstance(account.reserve(terms, str(number), 1, NOON_S + at_s), Granted)
    # The first falls out when all of its second is a minute old.
    assert refused(account.reserve(terms, "d", 1, NOON_S + 30)) == ("requests_per_minute", 31.0)
    assert refused(account.reserve(terms, "d", 1, NOON_S + 60.9)) == ("requests_per_minute", pytest.approx(0.1))
    assert isinstance(account.reserve(terms, "d", 1, NOON_S + 61), Granted)
    assert refused(account.reserve(terms, "e", 1, NOON_S + 61)) == ("requests_per_minute", 10.0)


def test_tokens_are_reserved_then_counted_exactly() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(tokens_per_minute=100)
    assert isinstance(account.reserve(terms, "a", 80, NOON_S), Granted)
    assert refused(account.reserve(terms, "b", 30, NOON_S + 1)) == ("tokens_per_minute", 60.0)
    assert account.settle("a", 12, NOON_S + 2)
    assert isinstance(account.reserve(terms, "b", 88, NOON_S + 3), Granted)
    assert refused(account.reserve(terms, "c", 1, NOON_S + 3)) == ("tokens_per_minute", 58.0)


def test_more_than_was_reserved_is_waited_for_by_the_next() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(tokens_per_minute=100)
    account.reserve(terms, "a", 10, NOON_S)
    account.settle("a", 150, NOON_S + 1)
    told = account.reserve(terms, "b", 1, NOON_S + 2)
    assert refused(told) == ("tokens_per_minute", 59.0)
    assert rate_limit_headers(terms, told.standing)["x-ratelimit-remaining-tokens"] == "0"


def test_places_are_held_until_the_end_or_until_their_owner_is_lost() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(concurrency=2)
    for name in ("a", "b"):
        account.reserve(terms, name, 1, NOON_S)
    assert refused(account.reserve(terms, "c", 1, NOON_S))[0] == "concurrency"
    account.settle("a", 1, NOON_S + 1)
    assert isinstance(account.reserve(terms, "c", 1, NOON_S + 1), Granted)
    assert refused(account.reserve(terms, "d", 1, NOON_S + KEEP_S - 0.1))[0] == "concurrency"
    assert isinstance(account.reserve(terms, "d", 1, NOON_S + KEEP_S), Granted)
    assert not account.settle("b", 1, NOON_S + KEEP_S)


@pytest.mark.parametrize(
    ("terms", "spent", "left_s"),
    [
        (LimitTerms(tokens_per_day=10), "tokens_per_day", 12 * 3600.0),
        (LimitTerms(tokens_per_month=10), "tokens_per_month", 2 * 86400 + 12 * 3600.0),
    ],
)
def test_budgets_end_with_their_day_and_month(terms: LimitTerms, spent: str, left_s: float) -> None:
    account = TenantAccount(KEEP_S)
    account.reserve(terms, "a", 10, NOON_S)
    account.settle("a", 9, NOON_S)
    assert refused(account.reserve(terms, "b", 2, NOON_S)) == (spent, left_s)
    assert isinstance(account.reserve(terms, "b", 1, NOON_S), Granted)
    assert refused(account.reserve(terms, "c", 1, NOON_S + left_s - 1)) == (spent, 1.0)
    assert isinstance(account.reserve(terms, "c", 10, NOON_S + left_s), Granted)


def test_what_ends_when_its_minute_is_over_gives_nothing_to_the_next_one() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(tokens_per_minute=100)
    account.reserve(terms, "a", 100, NOON_S)
    assert account.settle("a", 1, NOON_S + 61)
    told = account.reserve(terms, "b", 60, NOON_S + 61)
    assert told.standing.tokens == 60
    assert refused(account.reserve(terms, "c", 60, NOON_S + 61)) == ("tokens_per_minute", 61.0)


def test_an_answer_that_ends_after_midnight_is_of_the_day_it_began() -> None:
    account, terms = TenantAccount(KEEP_S), LimitTerms(tokens_per_day=10)
    midnight_s = NOON_S + 12 * 3600
    account.reserve(terms, "a", 10, midnight_s - 1)
    account.settle("a", 10, midnight_s + 1)
    assert isinstance(account.reserve(terms, "b", 10, midnight_s + 1), Granted)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "settle"]),
            st.integers(0, 9),
            st.integers(0, 40),
            st.floats(0, 30, allow_nan=False),
        ),
        max_size=60,
    )
)
def test_no_minute_ever_has_more_than_its_limits(steps: list[tuple[str, int, int, float]]) -> None:
    """Whatever is asked and settled, in any order, also twice: counted beside it by brute force."""
    account, terms, now_s = TenantAccount(KEEP_S), LimitTerms(requests_per_minute=5, tokens_per_minute=100), NOON_S
    taken: dict[str, tuple[float, int]] = {}
    running: dict[str, int] = {}
    for step, (what, number, tokens, pause_s) in enumerate(steps):
        now_s += pause_s
        if what == "reserve":
            name = str(step)
            if isinstance(account.reserve(terms, name, tokens, now_s), Granted):
                taken[name], running[name] = (now_s, tokens), tokens
        elif running:
            name = sorted(running)[number % len(running)]
            reserved = running.pop(name)
            exact = min(tokens, reserved)
            assert account.settle(name, exact, now_s)
            taken[name] = (taken[name][0], exact)
            assert not account.settle(name, 99, now_s)
        recent = [tokens for at_s, tokens in taken.values() if at_s > now_s - 60]
        assert len(recent) <= 5
        assert sum(recent) <= 100


@given(st.integers(1, 20), st.lists(st.floats(0, 90), max_size=40))
def test_a_refused_request_fits_when_it_was_told_and_not_before(limit: int, at: list[float]) -> None:
    account, terms, now_s = TenantAccount(KEEP_S), LimitTerms(requests_per_minute=limit), NOON_S
    for number, pause_s in enumerate(at):
        now_s += pause_s / 10
        told = account.reserve(terms, str(number), 0, now_s)
        if isinstance(told, Refused):
            wait_s = told.retry_after_s
            assert 0 < wait_s <= 61
            if wait_s > 0.01:
                assert isinstance(account.reserve(terms, "early", 0, now_s + wait_s - 0.01), Refused)
            now_s += wait_s
            assert isinstance(account.reserve(terms, str(number), 0, now_s), Granted)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0ms"), (0.0201, "21ms"), (1.0, "1s"), (59.2, "1m0s"), (61.0, "1m1s")]
)
def test_durations_are_written_as_openai_does(seconds: float, shown: str) -> None:
    assert shown_duration(seconds) == shown
