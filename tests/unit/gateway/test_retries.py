from __future__ import annotations

import pytest

from pilotlight_gateway.resilience.retries import (
    Failure,
    RetryBudget,
    RetrySettings,
    Situation,
    backoff_s,
    is_repeatable,
)

SETTINGS = RetrySettings()
HERE = Situation(retries=0, repeatable=True, elsewhere=False, left_s=60.0)
ELSEWHERE = Situation(retries=0, repeatable=True, elsewhere=True, left_s=60.0)
ONCE = Situation(retries=0, repeatable=False, elsewhere=True, left_s=60.0)


@pytest.mark.parametrize(
    ("failure", "situation", "waits_s"),
    [
        (Failure("no_connection"), HERE, 0.05),
        (Failure("no_connection"), ONCE, 0.0),
        (Failure("broken"), HERE, 0.05),
        (Failure("broken"), ELSEWHERE, 0.0),
        (Failure("broken"), ONCE, None),
        (Failure("status", 502), HERE, 0.05),
        (Failure("status", 504), HERE, 0.05),
        (Failure("status", 503), HERE, 0.05),
        (Failure("status", 503), ONCE, None),
        (Failure("status", 503, retry_after_s=1.0), HERE, 1.1),
        (Failure("status", 503, retry_after_s=30.0), HERE, None),
        (Failure("status", 503, retry_after_s=30.0), ELSEWHERE, 0.0),
        (Failure("status", 500), HERE, None),
        (Failure("status", 500), ELSEWHERE, 0.0),
        (Failure("status", 429, retry_after_s=1.0), ELSEWHERE, None),
        (Failure("status", 400), ELSEWHERE, None),
        (Failure("broken"), Situation(2, True, False, 60.0), 0.2),
        (Failure("broken"), Situation(3, True, True, 60.0), None),
        (Failure("broken"), Situation(0, True, False, 0.01), None),
        (Failure("status", 503, retry_after_s=1.0), Situation(0, True, False, 0.5), None),
    ],
)
def test_what_is_tried_again(failure: Failure, situation: Situation, waits_s: float | None) -> None:
    assert backoff_s(failure, situation, SETTINGS, jitter=1.0) == (None if waits_s is None else pytest.approx(waits_s))


def test_back_off_is_spread_over_half_of_its_length() -> None:
    early, late = (backoff_s(Failure("broken"), HERE, SETTINGS, jitter) for jitter in (0.0, 1.0))
    assert early == pytest.approx(0.025)
    assert late == pytest.approx(0.05)


def test_when_everything_fails_retries_are_a_fifth_of_the_requests() -> None:
    budget = RetryBudget(SETTINGS, now_s=0.0)
    retried = 0
    for _ in range(10_000):
        budget.earn(0.0)
        retried += budget.spend(0.0)
    assert 2000 <= retried <= 2000 + SETTINGS.budget_most


def test_a_quiet_endpoint_has_retries_all_the_same() -> None:
    budget = RetryBudget(SETTINGS, now_s=0.0)
    while budget.spend(0.0):
        pass
    assert budget.spend(1.0)
    assert not budget.spend(1.0)
    assert budget.spend(1000.0)


@pytest.mark.parametrize(
    ("method", "path", "repeatable"),
    [
        ("GET", "/v1/models", True),
        ("DELETE", "/v1/responses/r", True),
        ("POST", "/openai/v1/chat/completions", True),
        ("POST", "/v1/completions/?x=1", True),
        ("POST", "/v1/messages", True),
        ("POST", "/v1/responses", True),
        ("POST", "/v2/models/demo/versions/1/generate_stream", True),
        ("POST", "/v2/models/demo/infer", True),
        ("POST", "/v2/repository/models/demo/unload", False),
        ("POST", "/v1/responses/r/cancel", False),
        ("POST", "/charge", False),
        ("PATCH", "/v1/endpoints/x", False),
    ],
)
def test_what_may_run_twice(method: str, path: str, repeatable: bool) -> None:
    assert is_repeatable(method, path) is repeatable
