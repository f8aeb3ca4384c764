"""A model whose engines fail waits longer each time, alone, and starts afresh once one works."""

from pilotlight_pool.policy.placement.boot_backoff import ModelFailures, failed, wait_s, worked
from pilotlight_protocol.back_off import BackOff

BACK_OFF = BackOff(first_s=1.0, longest_s=10.0, forgotten_after_s=100.0, free=1)


def test_the_first_failure_is_let_off_and_each_further_one_doubles_the_wait() -> None:
    state, waits = ModelFailures(), []
    for _ in range(7):
        state = failed(BACK_OFF, state, "m", 50.0)
        waits.append(wait_s(state, "m", 50.0))
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert wait_s(state, "m", 57.0) == 3.0
    assert wait_s(state, "m", 99.0) == wait_s(state, "other", 50.0) == 0.0
    assert wait_s(worked(state, "m"), "m", 50.0) == 0.0


def test_failures_long_ago_are_forgotten() -> None:
    state = failed(BACK_OFF, failed(BACK_OFF, ModelFailures(), "m", 0.0), "m", 1.0)
    assert wait_s(state, "m", 1.0) == 1.0
    assert wait_s(failed(BACK_OFF, state, "m", 101.5), "m", 101.5) == 0.0


def test_only_so_many_models_are_remembered_the_latest() -> None:
    state = ModelFailures()
    for number in range(9):
        state = failed(BACK_OFF, state, f"m{number}", float(number), most=3)
    assert set(state.models) == {"m6", "m7", "m8"}
