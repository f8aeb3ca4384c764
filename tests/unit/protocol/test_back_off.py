"""The one back-off: doubling, capped, let off, forgotten."""

import pytest

from pilotlight_protocol.back_off import BackOff, Failures, failed

BACK_OFF = BackOff(first_s=1.0, longest_s=10.0, forgotten_after_s=120.0)


def test_the_first_try_does_not_wait() -> None:
    assert Failures().wait_s(1000.0) == 0.0


@pytest.mark.parametrize(
    ("back_off", "delays"),
    [
        (BACK_OFF, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]),
        (BackOff(1.0, 10.0, free=2), [0.0, 0.0, 1.0, 2.0, 4.0, 8.0]),
        (BackOff(0.0, 10.0), [0.0] * 6),
    ],
)
def test_delays_double_and_are_bounded(back_off: BackOff, delays: list[float]) -> None:
    failures, now_s, waits = Failures(), 100.0, []
    for _ in range(6):
        failures = failed(back_off, failures, now_s)
        waits.append(failures.wait_s(now_s))
    assert waits == delays


def test_time_that_passed_counts_against_the_delay() -> None:
    failures = failed(BACK_OFF, Failures(3), 100.0)
    assert failures.wait_s(105.0) == 3.0
    assert failures.wait_s(200.0) == 0.0


def test_what_went_well_for_long_is_forgiven() -> None:
    assert failed(BACK_OFF, Failures(5), 500.0, went_well_s=121.0) == Failures(1, 501.0)
    assert failed(BACK_OFF, Failures(5), 500.0, went_well_s=119.0).count == 6


def test_jitter_shortens_a_delay_and_weeks_of_failures_do_not_overflow() -> None:
    assert BACK_OFF.delay_s(2, jitter=0.25) == 0.5
    assert BACK_OFF.delay_s(10**9, jitter=0.5) == 5.0
