from pilotlight_engine.client.restart import BackOff, Failures, after_failure, wait_s

POLICY = BackOff(first_delay_s=1.0, factor=2.0, longest_delay_s=10.0, forgiven_after_s=120.0)


def test_the_first_boot_does_not_wait() -> None:
    assert wait_s(Failures(), 1000.0) == 0.0


def test_delays_double_and_are_bounded() -> None:
    failures, now_s, delays = Failures(), 100.0, []
    for _ in range(6):
        failures = after_failure(POLICY, failures, 0.0, now_s)
        delays.append(wait_s(failures, now_s))
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_time_that_passed_counts_against_the_delay() -> None:
    failures = after_failure(POLICY, Failures(3, 0.0), 0.0, 100.0)
    assert wait_s(failures, 105.0) == 3.0
    assert wait_s(failures, 200.0) == 0.0


def test_an_engine_that_ran_well_is_forgiven() -> None:
    assert after_failure(POLICY, Failures(5, 0.0), 121.0, 500.0) == Failures(1, 501.0)
    assert after_failure(POLICY, Failures(5, 0.0), 119.0, 500.0).count == 6


def test_a_thousand_failures_do_not_overflow() -> None:
    assert wait_s(after_failure(POLICY, Failures(1000, 0.0), 0.0, 0.0), 0.0) == 10.0
