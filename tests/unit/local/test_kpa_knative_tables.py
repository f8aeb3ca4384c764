"""Knative's own tables, row by row: what its tests expect of the KPA, ours must answer.

Source: knative/serving at 98e5ef90 (August 2026), Apache License 2.0. Each table names the test it comes from; rows
about Kubernetes objects, or another class of autoscaler than the KPA, have nothing to answer here and are left out.
"""

import math
from dataclasses import dataclass, replace

import pytest

from pilotlight_local.kpa import Observation, initial_state, scale
from pilotlight_local.kpa.window import MetricWindow, smoothing_coefficient
from pilotlight_specs.kpa import default_config, resolve_scaling
from pilotlight_specs.kpa.rounding import round_half_away, round_to_digits

GROUP = "autoscaling.knative.dev"
NOW_S = 10_000.0

# pkg/reconciler/autoscaling/resources/target_test.go: TestResolveMetricTarget


@pytest.mark.parametrize(
    ("annotations", "concurrency", "config", "target", "total"),
    [
        ({}, 0, {}, 100, 100),
        ({}, 0, {"fraction": 0.8}, 80, 100),
        ({}, 0, {"fraction": 0.3, "default": 2}, 0.6, 2),
        ({"target-utilization-percentage": "75"}, 12, {"fraction": 0.8}, 9, 12),
        ({}, 10, {"fraction": 0.8}, 8, 10),
        ({}, 1, {"fraction": 0.8}, 0.8, 1),
        ({}, 1, {}, 1, 1),
        ({}, 10, {}, 10, 10),
        ({"target": "1"}, 0, {}, 1, 1),
        ({"target": "1"}, 0, {"fraction": 0.001}, 0.01, 1),
        ({"target": "1"}, 0, {"fraction": 0.75}, 0.75, 1),
        ({"target": "10"}, 0, {"fraction": 0.75}, 7.5, 10),
        ({"target": "1"}, 10, {}, 1, 1),
        ({"target": "500"}, 0, {}, 500, 500),
        ({"target": "10"}, 1, {}, 1, 1),
        # Requests per second have a utilization of their own: 0.7, though concurrency's is 1.0 here.
        ({"metric": "rps"}, 1, {}, 140, 200),
        ({"metric": "rps", "target": "1"}, 0, {}, 0.7, 1),
        ({"metric": "rps", "target-utilization-percentage": "75"}, 0, {}, 150, 200),
        ({"metric": "rps", "target": "300"}, 0, {}, 210, 300),
        ({"metric": "rps"}, 0, {"fraction": 0.01}, 140, 200),
    ],
)
def test_targets(annotations, concurrency, config, target, total) -> None:
    cluster = replace(
        default_config(),
        container_concurrency_target_fraction=config.get("fraction", 1.0),
        container_concurrency_target_default=config.get("default", 100.0),
    )
    spec = resolve_scaling({f"{GROUP}/{key}": text for key, text in annotations.items()}, concurrency, cluster)
    assert spec.target == pytest.approx(target, abs=1e-12)
    assert spec.total == total


# pkg/reconciler/autoscaling/resources/metric_test.go: TestMakeMetric


@pytest.mark.parametrize(
    ("annotations", "stable_s", "panic_s"),
    [
        ({}, 60, 6),
        ({"window": "10s", "panic-window-percentage": "10"}, 10, 1),
        ({"window": "10m"}, 600, 60),
        ({"panic-window-percentage": "50"}, 60, 30),
        ({"panic-window-percentage": "51"}, 60, 31),
    ],
)
def test_windows(annotations, stable_s, panic_s) -> None:
    spec = resolve_scaling({f"{GROUP}/{key}": text for key, text in annotations.items()}, 0, default_config())
    assert (spec.stable_window_s, spec.panic_window_s) == (stable_s, panic_s)


# pkg/autoscaler/aggregation/bucketing_test.go: TestRoundToNDigits, and Go's own rule of math.Round


@pytest.mark.parametrize(
    ("digits", "value", "rounded"),
    [(6, 3.6e-17, 0), (3, -3.6e-17, 0), (3, 0.0004, 0), (3, 1.2345, 1.235), (4, 1.2345, 1.2345), (6, 12345, 12345)],
)
def test_rounding_to_digits(digits, value, rounded) -> None:
    assert round_to_digits(digits, value) == rounded


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.5, 1), (1.5, 2), (2.5, 3), (-0.5, -1), (-2.5, -3), (0.49999999999999994, 0), (2.4, 2), (7.0, 7)],
)
def test_a_half_is_rounded_away_from_zero(value, rounded) -> None:
    assert round_half_away(value) == rounded


def test_an_average_is_rounded_as_knative_rounds_it() -> None:
    # Half a millionth; Python's round() says 0.
    assert MetricWindow(size=60).record(0, 1e-6).record(1, 0.0).average(1) == 1e-6


# pkg/autoscaler/aggregation/bucketing_test.go: TestComputeDecayMultiplier, TestTimedFloat64BucketsWeightedAverage


@pytest.mark.parametrize(("buckets", "coefficient"), [(100, 0.2), (60, 0.2), (40, 0.20567), (6, 0.78456)])
def test_smoothing_coefficients(buckets, coefficient) -> None:
    assert smoothing_coefficient(buckets) == pytest.approx(coefficient, abs=1e-5)


def test_the_weighted_average() -> None:
    c = smoothing_coefficient(5)
    window = MetricWindow(size=5).record(0, 2)
    want = 2 * c
    assert window.weighted_average(0) == pytest.approx(want)
    want *= 1 - c
    assert window.weighted_average(1) == pytest.approx(want)
    window = window.record(1, 2)
    want += 2 * c
    assert window.weighted_average(1) == pytest.approx(want)
    for second in range(5):
        window = window.record(2 + second, second + 2)
    want = sum(value * c * (1 - c) ** age for age, value in enumerate([6, 5, 4, 3, 2]))
    assert window.weighted_average(6) == pytest.approx(want)
    assert window.weighted_average(16) == 0


def test_a_weighted_window_that_rolled_over() -> None:
    window = MetricWindow(size=5)
    for second in range(6):
        window = window.record(second, second + 1)
    assert round(window.weighted_average(5), 3) == 5.812


@pytest.mark.parametrize("word", ["weightedExponential", "weighted-exponential"])
def test_the_algorithm_decides_which_average_scales(word):
    named = {f"{GROUP}/metric-aggregation-algorithm": word}
    weighted = resolve_scaling(named, 10, default_config())
    linear = resolve_scaling({}, 10, default_config())

    def pods(spec):
        state = initial_state(spec, 1, NOW_S)
        for second, load in enumerate([0.0] * 50 + [70.0] * 5):
            window = state.metrics
            window = replace(
                window,
                stable=window.stable.record(NOW_S + second, load),
                panic=window.panic.record(NOW_S + second, load),
            )
            state = replace(state, metrics=window)
        decision, _ = scale(spec, Observation(ready_pods=8), state, NOW_S + 54)
        return decision.desired_scale

    # The same burst: 6.4 on average, 47 when the newest seconds weigh most. Half of 8 pods is the slowest way down.
    assert pods(weighted) == math.ceil(70 * (1 - 0.8**5) / 7) == 7
    assert pods(linear) == 4


# pkg/reconciler/autoscaling/kpa/scaler_test.go: TestScaler. The grace period is 60 s and the stable window 5 min there.

GRACE_S, STABLE_S, OWN_WINDOW_S = 60.0, 300.0, 45.0


@dataclass
class Row:
    """`activity` since `for_s`; the traffic wants `wants` (None: no metric) of a revision that has `pods`."""

    label: str
    activity: str
    for_s: float
    pods: int
    wants: int | None
    applied: int  # what runs afterwards
    annotations: dict[str, str] | None = None
    retention_s: float = 0.0
    reachable: bool = True
    proxied_s: float | None = 0.0  # None: the activator does not answer the probe
    initialized: bool = False


OWN_WINDOW = {"window": "45s"}
SCALER = [
    Row("waits to scale to zero (just before idle period)", "active", STABLE_S - 1, 1, 0, 1),
    Row("waits, custom PA window", "active", OWN_WINDOW_S - 1, 1, 0, 1, OWN_WINDOW),
    Row("custom PA window, check for standard window", "active", STABLE_S, 1, 0, 1, OWN_WINDOW),
    Row("scale to 1 waiting for idle expires", "active", STABLE_S - 1, 10, 0, 1),
    Row("waits to scale to zero after idle period", "active", STABLE_S, 1, 0, 1),
    Row("waits to scale to zero after idle period (custom PA window)", "active", OWN_WINDOW_S, 1, 0, 1, OWN_WINDOW),
    Row(
        "can scale to zero after grace period, but 0 PA retention",
        *("inactive", GRACE_S, 1, 0, 0, {"scale-to-zero-pod-retention-period": "0"}, 2 * GRACE_S),
    ),
    Row("after grace period, but before last pod retention", "inactive", GRACE_S, 1, 0, 1, None, 2 * GRACE_S),
    Row(
        "after grace period, but before last pod retention, pa defined",
        *("inactive", GRACE_S, 1, 0, 1, {"scale-to-zero-pod-retention-period": "2m"}),
    ),
    Row("after grace period, and after last pod retention", "inactive", GRACE_S, 1, 0, 0, None, GRACE_S),
    Row("scale to zero after grace period", "inactive", GRACE_S, 1, 0, 0),
    Row("just before grace period", "inactive", GRACE_S - 1, 1, 0, 1),
    Row("just before grace period, sks short", "inactive", GRACE_S - 1, 1, 0, 1, proxied_s=GRACE_S - 1),
    Row(
        "just before grace period, sks in proxy long, last pod timeout positive",
        *("inactive", GRACE_S - 1, 1, 0, 0, None, 42.0, True, GRACE_S),
    ),
    Row("just before grace period, sks in proxy long", "inactive", GRACE_S - 1, 1, 0, 0, proxied_s=GRACE_S),
    Row("scale to zero with TBC=-1", "inactive", GRACE_S, 1, 0, 0, {"target-burst-capacity": "-1"}),
    Row("scale to zero after grace period, but fail prober", "inactive", GRACE_S, 1, 0, 1, proxied_s=None),
    Row("scale down to minScale after grace period", "inactive", GRACE_S, 10, 0, 2, {"min-scale": "2"}),
    Row(
        "ignore last pod retention if revision is unreachable",
        *("inactive", GRACE_S, 1, 0, 0, None, 10 * GRACE_S, False),
    ),
    Row(
        "can't scale to zero if revision is unreachable, but before deadline",
        *("inactive", GRACE_S - 1, 1, 0, 1, None, 10 * GRACE_S, False),
    ),
    Row("ignore minScale if unreachable", "inactive", GRACE_S, 10, 0, 0, {"min-scale": "2"}, 0.0, False),
    Row("scales up", "activating", 0, 1, 10, 10),
    Row("scales up to maxScale", "activating", 0, 1, 10, 8, {"max-scale": "8"}),
    Row("scale up inactive revision", "inactive", GRACE_S / 2, 1, 10, 10),
    Row("does not scale up from zero with no metrics", "inactive", 0, 0, None, 0),
    Row("scales up from zero to desired one", "activating", 0, 0, 1, 1),
    Row("scales up from zero to desired high scale", "activating", 0, 0, 10, 10),
    Row("negative scale does not scale", "active", 0, 12, None, 12),
    Row(
        "initial scale attained, but now time to scale down",
        *("active", 120, 2, 0, 1, {"initial-scale": "2"}, 0.0, True, 0.0, True),
    ),
    Row("haven't scaled to initial scale", "activating", 0, 0, 1, 2, {"initial-scale": "2"}),
    Row("initial scale reached for the first time", "activating", 0, 5, 1, 5, {"initial-scale": "5"}),
    Row("reaching initial scale zero", "inactive", 0, 0, 0, 0, {"initial-scale": "0"}),
    Row(
        "unreachable revision with initialScale > 1 can scale to 0",
        *("active", 120, 2, 0, 1, {"initial-scale": "2"}, 0.0, False),
    ),
]


@pytest.mark.parametrize("row", SCALER, ids=lambda row: row.label)
def test_scaler(row) -> None:
    config = replace(
        default_config(),
        stable_window_s=STABLE_S,
        scale_to_zero_grace_period_s=GRACE_S,
        scale_to_zero_pod_retention_period_s=row.retention_s,
        allow_zero_initial_scale=True,
    )
    spec = resolve_scaling({f"{GROUP}/{key}": text for key, text in (row.annotations or {}).items()}, 0, config)
    state = replace(
        initial_state(spec, 0, NOW_S),
        recommended=row.wants,
        applied_scale=row.pods,
        activity=row.activity,
        activity_since_s=NOW_S - row.for_s,
        proxy_since_s=None if row.proxied_s is None else NOW_S - row.proxied_s,
        initialized=row.initialized,
    )
    decision, _ = scale(spec, Observation(ready_pods=row.pods, reachable=row.reachable), state, NOW_S)
    assert decision.desired_scale == row.applied
