"""Settings of the autoscaler: Knative's defaults, both spellings, and messages that name key, range and value."""

from dataclasses import replace

import pytest

from pilotlight_specs.kpa import InvalidScaling, default_config, parse_config, parse_duration_s, resolve_scaling

GROUP = "autoscaling.knative.dev"


def resolved(annotations=None, container_concurrency=0, config=None):
    named = {f"{GROUP}/{name}": value for name, value in (annotations or {}).items()}
    return resolve_scaling(named, container_concurrency, config or default_config())


def problems_of(call):
    with pytest.raises(InvalidScaling) as caught:
        call()
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1m30s", 90), ("1h", 3600), ("1.5h", 5400), ("250ms", 0.25), ("0", 0), ("-5s", -5), ("1us", 1e-6)],
)
def test_go_durations(text, seconds) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "1 s", "1d", "--1s", "1s2", "١s"])
def test_not_go_durations(text) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_s(text)


def test_defaults_are_knatives() -> None:
    spec = resolved()
    assert (spec.metric, spec.total, spec.target) == ("concurrency", 100, 70)
    assert (spec.target_burst_capacity, spec.stable_window_s, spec.panic_window_s) == (211, 60, 6)
    assert (spec.panic_threshold, spec.max_scale_up_rate, spec.max_scale_down_rate) == (2.0, 1000, 2)
    assert (spec.min_scale, spec.max_scale, spec.initial_scale, spec.activation_scale) == (0, 0, 1, 1)
    assert (spec.grace_period_s, spec.retention_period_s, spec.scale_down_delay_s, spec.tick_s) == (30, 0, 0, 2)
    assert spec.activation_timeout_s == 630


@pytest.mark.parametrize(
    ("annotations", "concurrency", "total", "target"),
    [
        ({}, 0, 100, 70),
        ({}, 10, 10, 7),
        ({"target": "5"}, 0, 5, 3.5),
        ({"target": "20"}, 10, 10, 7),
        ({"target": "5"}, 10, 5, 3.5),
        ({"target": "0.01"}, 0, 0.01, 0.01),
        ({"target-utilization-percentage": "100"}, 4, 4, 4),
        ({"metric": "rps"}, 10, 200, 140),
        ({"metric": "rps", "target": "50"}, 10, 50, 35),
    ],
)
def test_targets(annotations, concurrency, total, target) -> None:
    spec = resolved(annotations, concurrency)
    assert (spec.total, spec.target) == (total, pytest.approx(target))


def test_the_kebab_spelling_wins_over_the_older_one() -> None:
    assert resolved({"minScale": "2"}).min_scale == 2
    assert resolved({"minScale": "2", "min-scale": "1"}).min_scale == 1


def test_every_annotation_reaches_the_spec() -> None:
    spec = resolved(
        {
            "class": "kpa.autoscaling.knative.dev",
            "metric": "concurrency",
            "target": "8",
            "target-utilization-percentage": "50",
            "target-burst-capacity": "-1",
            "min-scale": "1",
            "max-scale": "9",
            "initial-scale": "3",
            "activation-scale": "4",
            "scale-down-delay": "2m",
            "window": "40s",
            "panic-window-percentage": "20",
            "panic-threshold-percentage": "150",
            "scale-to-zero-pod-retention-period": "1m5s",
        }
    )
    assert (spec.total, spec.target, spec.target_burst_capacity) == (8, 4, -1)
    assert (spec.min_scale, spec.max_scale, spec.initial_scale, spec.activation_scale) == (1, 9, 3, 4)
    assert (spec.scale_down_delay_s, spec.stable_window_s, spec.panic_window_s) == (120, 40, 8)
    assert (spec.panic_threshold, spec.retention_period_s) == (1.5, 65)


@pytest.mark.parametrize(("window", "percentage", "panic_s"), [("6s", "1", 1), ("25s", "10", 3), ("6s", "10", 1)])
def test_the_panic_window_is_whole_seconds_and_at_least_one(window, percentage, panic_s) -> None:
    assert resolved({"window": window, "panic-window-percentage": percentage}).panic_window_s == panic_s


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("class", "hpa.autoscaling.knative.dev", "kpa.autoscaling.knative.dev"),
        ("metric", "cpu", "one of concurrency, rps"),
        ("target", "0.001", "at least 0.01"),
        ("target", "inf", "at least 0.01"),
        ("target", "many", "at least 0.01"),
        ("target", "1_0", "at least 0.01"),
        ("target-utilization-percentage", "0", "[1, 100]"),
        ("target-burst-capacity", "-2", "-1"),
        ("min-scale", "-1", "[0, 2147483647]"),
        ("min-scale", "1_0", "[0, 2147483647]"),
        ("max-scale", "x", "[0, 2147483647]"),
        ("initial-scale", "0", "allow-zero-initial-scale"),
        ("activation-scale", "1", "[2, 2147483647]"),
        ("scale-down-delay", "1.5s", "[0s, 1h]"),
        ("scale-down-delay", "2h", "[0s, 1h]"),
        ("window", "5s", "[6s, 1h]"),
        ("window", "61m", "[6s, 1h]"),
        ("window", "6.5s", "[6s, 1h]"),
        ("panic-window-percentage", "0.5", "[1, 100]"),
        ("panic-threshold-percentage", "109", "[110, 1000]"),
        ("scale-to-zero-pod-retention-period", "-1s", "[0s, 1h]"),
        ("metric-aggregation-algorithm", "exponential", "one of linear, weighted-exponential, weightedExponential"),
    ],
)
def test_bad_annotations_name_key_range_and_value(name, value, rule) -> None:
    (problem,) = problems_of(lambda: resolved({name: value}))
    assert f"{GROUP}/{name}" in problem
    assert rule in problem
    assert value in problem


def test_bounds_must_agree() -> None:
    (problem,) = problems_of(lambda: resolved({"min-scale": "3", "max-scale": "2"}))
    assert problem == f"{GROUP}/max-scale=2 is less than {GROUP}/min-scale=3"
    (problem,) = problems_of(lambda: resolved({"activation-scale": "5", "max-scale": "2"}))
    assert "activation-scale=5" in problem
    (problem,) = problems_of(lambda: resolved({"activation-scale": "2", "min-scale": "3"}))
    assert "is greater than" in problem
    limited = replace(default_config(), max_scale=4, max_scale_limit=5)
    (problem,) = problems_of(lambda: resolved({"max-scale": "6"}, config=limited))
    assert "[1, 5]" in problem
    (problem,) = problems_of(lambda: resolved({"max-scale": "0"}, config=limited))
    assert "[1, 5]" in problem


def test_all_problems_come_at_once() -> None:
    assert len(problems_of(lambda: resolved({"window": "1s", "target": "0", "min-scale": "-1"}))) == 3


def test_config_autoscaler_is_parsed_over_the_defaults() -> None:
    config = parse_config(
        {
            "_example": "ignored",
            "stable-window": "2m",
            "container-concurrency-target-percentage": "80",
            "allow-zero-initial-scale": "true",
            "initial-scale": "0",
            "scale-to-zero-grace-period": "6s",
        }
    )
    assert config.stable_window_s == 120
    assert config.container_concurrency_target_fraction == 0.8
    assert (config.initial_scale, config.scale_to_zero_grace_period_s) == (0, 6)
    assert parse_config({"container-concurrency-target-percentage": "0.5"}).container_concurrency_target_fraction == 0.5


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("scale-to-zero-grace-period", "0s", "must be positive"),
        ("scale-down-delay", "-1s", "not negative"),
        ("scale-to-zero-pod-retention-period", "-1s", "cannot be negative"),
        ("target-burst-capacity", "-3", "-1"),
        ("container-concurrency-target-percentage", "0", "(0, 100]"),
        ("container-concurrency-target-default", "0.001", "at least 0.01"),
        ("requests-per-second-target-default", "0", "at least 0.01"),
        ("max-scale-up-rate", "1", "greater than 1"),
        ("max-scale-down-rate", "1", "greater than 1"),
        ("stable-window", "5s", "[6s, 1h]"),
        ("panic-window-percentage", "101", "[1, 100]"),
        ("initial-scale", "0", "at least 1"),
        ("min-scale", "-1", "0 or more"),
        ("max-scale-limit", "-1", "0 or more"),
        ("max-scale", "-1", "in [0"),
        ("min-scale", "3", "at most max-scale (2)"),
        ("stable-window", "soon", "not a duration"),
        ("enable-scale-to-zero", "maybe", "true or false"),
        ("stable-windows", "60s", "not a config-autoscaler key"),
    ],
)
def test_bad_cluster_settings(key, value, rule) -> None:
    problems = problems_of(lambda: parse_config({"max-scale": "2", key: value}))
    assert any(rule in problem and key in problem for problem in problems), problems
