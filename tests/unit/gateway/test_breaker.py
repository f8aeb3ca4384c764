"""The breaker's life, told in time."""

from __future__ import annotations

import pytest

from pilotlight_gateway.resilience.breaker import Breaker, BreakerSettings

SETTINGS = BreakerSettings()


def failed(breaker: Breaker, now_s: float) -> None:
    permit = breaker.admit(now_s)
    assert permit is not None
    breaker.failed(permit, now_s)


def failing(times: int, at_s: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(times):
        failed(breaker, at_s)
    return breaker


def test_a_few_failures_open_nothing() -> None:
    breaker = failing(SETTINGS.min_requests - 1)
    assert breaker.standing(0.0) == "closed"


def test_half_of_enough_requests_that_fail_open_it() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(5):
        permit = breaker.admit(1.0)
        assert permit is not None
        breaker.succeeded(permit, 1.0)
        failed(breaker, 1.0)
    assert breaker.standing(1.0) == "open"
    assert breaker.admit(1.0) is None
    assert breaker.retry_after_s(2.0) == pytest.approx(1.0)


def test_failures_scroll_out_of_the_window() -> None:
    breaker = failing(9, at_s=0.0)
    failed(breaker, SETTINGS.window_s)
    assert breaker.standing(SETTINGS.window_s) == "closed"


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    breaker = failing(10)
    assert breaker.standing(2.0) == "half_open"
    probe = breaker.admit(2.0)
    assert probe is not None
    assert breaker.admit(2.0) is None
    breaker.succeeded(probe, 2.5)
    assert breaker.standing(2.5) == "closed"
    # What it had on its account is forgotten.
    failed(breaker, 2.6)
    assert breaker.admits(2.6)


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_bound() -> None:
    breaker, now_s, open_s = failing(10), 0.0, SETTINGS.open_s
    for _ in range(40):
        now_s += open_s
        failed(breaker, now_s)
        open_s = min(open_s * 2, SETTINGS.longest_open_s)
        assert not breaker.admits(now_s + open_s - 0.01)
    assert open_s == SETTINGS.longest_open_s


def test_a_probe_whose_client_left_lets_the_next_one_try() -> None:
    breaker = failing(10)
    probe = breaker.admit(2.0)
    assert probe is not None
    breaker.abandoned(probe)
    assert breaker.admit(2.0) is not None


@pytest.mark.parametrize("how", ["succeeded", "failed", "abandoned"])
def test_what_was_under_way_when_it_opened_tells_nothing(how: str) -> None:
    breaker = Breaker(SETTINGS)
    early = breaker.admit(0.0)
    assert early is not None
    for _ in range(10):
        failed(breaker, 0.0)
    assert breaker.admit(2.0) is not None
    breaker.abandoned(early) if how == "abandoned" else getattr(breaker, how)(early, 2.0)
    assert breaker.standing(2.0) == "half_open"
    assert breaker.admit(2.0) is None, "the probe is still under way"


def answered(latencies_s: list[float]) -> Breaker:
    breaker = Breaker(SETTINGS)
    for latency_s in latencies_s:
        permit = breaker.admit(0.0)
        assert permit is not None
        breaker.succeeded(permit, 0.0, latency_s)
    return breaker


@pytest.mark.parametrize(
    ("latencies_s", "slow"),
    [
        ([0.1] * 100, False),
        ([0.1] * 100 + [3.0], False),
        ([0.1] * 100 + [5.0] * 4, True),
        ([0.1] * 100 + [5.0] * 4 + [0.1] * 10, False),
        # Too few to know what is usual.
        ([0.1] * 5 + [5.0] * 5, False),
        # Five times of next to nothing is nothing.
        ([0.001] * 100 + [0.1] * 10, False),
    ],
)
def test_slow_is_far_above_its_own_usual(latencies_s: list[float], slow: bool) -> None:
    breaker = answered(latencies_s)
    assert breaker.slow is slow
    assert breaker.admits(0.0), "nobody is refused for slowness alone"
