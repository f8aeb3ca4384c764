"""What the predictor learns, and how it reports its own error."""

import pytest

from pilotlight_pool.policy.placement.prediction import (
    Outcome,
    PredictionSpec,
    PredictionState,
    error,
    observe,
    predict,
)

SPEC = PredictionSpec()
GB = 10**9


def swap(fingerprint: str, gigabytes: float, weights_s: float, predicted_s: float = 1.0) -> Outcome:
    return Outcome("swap", "ram", fingerprint, int(gigabytes * GB), 0.1, weights_s, predicted_s)


def test_before_anything_happened_the_prior_speaks_and_orders_the_paths() -> None:
    etas = [predict(SPEC, PredictionState(), path, "disk", "f", GB) for path in ("loaded", "swap", "fork", "boot")]
    assert etas == sorted(etas)
    tiers = [predict(SPEC, PredictionState(), "swap", tier, "f", GB) for tier in ("ram", "disk", "remote")]
    assert tiers == sorted(tiers)


def test_one_fingerprint_teaches_others_and_its_own_experience_counts_more() -> None:
    state = observe(SPEC, PredictionState(), Outcome("boot", "disk", "big", 0, 60.0, 0.0, 29.0))
    assert predict(SPEC, state, "boot", "disk", "never seen", 0) == pytest.approx(60.0)
    state = observe(SPEC, state, Outcome("boot", "disk", "small", 0, 10.0, 0.0, 60.0))
    assert predict(SPEC, state, "boot", "disk", "small", 0) == pytest.approx(10.0)
    assert predict(SPEC, state, "boot", "disk", "big", 0) == pytest.approx(60.0)


def test_a_small_models_fixed_costs_do_not_spoil_the_figure_of_a_big_one() -> None:
    state = observe(SPEC, PredictionState(), swap("f", 10.0, weights_s=1.0))
    state = observe(SPEC, state, swap("f", 0.01, weights_s=0.02))  # 2 s per GB, if taken at its word
    assert predict(SPEC, state, "swap", "ram", "f", 10 * GB) == pytest.approx(1.1, rel=0.05)


def test_it_follows_a_change_within_ten_measurements() -> None:
    state = PredictionState()
    for weights_s in [1.0] * 5 + [3.0] * 10:
        state = observe(SPEC, state, swap("f", 1.0, weights_s))
    assert predict(SPEC, state, "swap", "ram", "f", GB) == pytest.approx(3.1, rel=0.05)


def test_the_error_is_a_metric() -> None:
    assert error(PredictionState(), "swap") is None
    state = PredictionState()
    for actual_s in (0.9, 1.9, 0.9, 1.9):
        state = observe(SPEC, state, swap("f", 1.0, actual_s, predicted_s=1.0))
    found = error(state, "swap")
    assert found is not None
    assert found.count == 4
    assert 0.0 < found.bias_s < 1.0
    assert found.ratio_p90 == pytest.approx(2.0)


def test_it_remembers_a_thousand_fingerprints_and_forgets_those_it_learned_longest_ago() -> None:
    state = observe(SPEC, PredictionState(), Outcome("boot", "disk", "kept", 0, 7.0, 0.0, 1.0))
    for number in range(3000):
        state = observe(SPEC, state, Outcome("boot", "disk", str(number), 0, 60.0, 0.0, 1.0))
        if number % 500 == 0:
            state = observe(SPEC, state, Outcome("boot", "disk", "kept", 0, 7.0, 0.0, 1.0))
    assert len(state.process_s) <= 1024
    assert predict(SPEC, state, "boot", "disk", "kept", 0) == pytest.approx(7.0)
    assert predict(SPEC, state, "boot", "disk", "0", 0) == pytest.approx(60.0, rel=0.05)
