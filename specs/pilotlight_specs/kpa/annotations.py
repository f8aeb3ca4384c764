"""The `autoscaling.knative.dev/*` annotations of one revision: read, checked and resolved into its ScalingSpec.

Both spellings of a key are read (`min-scale` and the older `minScale`); the kebab one wins when both are set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pilotlight_specs.kpa.config import (
    HPA_CLASS,
    KPA_CLASS,
    PANIC_THRESHOLD_PERCENTAGE_RANGE,
    PANIC_WINDOW_PERCENTAGE_RANGE,
    TARGET_MIN,
    WINDOW_MAX_S,
    WINDOW_MIN_S,
    InvalidScaling,
    KPAConfig,
)
from pilotlight_specs.kpa.durations import parse_duration_s
from pilotlight_specs.kpa.rounding import round_half_away

GROUP = "autoscaling.knative.dev"
MAX_INT32 = 2**31 - 1
ACTIVATION_TIMEOUT_BUFFER_S = 30.0

Metric = Literal["concurrency", "rps"]
Aggregation = Literal["linear", "weighted-exponential"]
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_AGGREGATIONS: dict[str, Aggregation] = {
    "": "linear",
    "linear": "linear",
    "weighted-exponential": "weighted-exponential",
    "weightedExponential": "weighted-exponential",
}

_CAMEL_SPELLING = {
    "min-scale": "minScale",
    "max-scale": "maxScale",
    "initial-scale": "initialScale",
    "scale-down-delay": "scaleDownDelay",
    "target-utilization-percentage": "targetUtilizationPercentage",
    "target-burst-capacity": "targetBurstCapacity",
    "panic-window-percentage": "panicWindowPercentage",
    "panic-threshold-percentage": "panicThresholdPercentage",
    "scale-to-zero-pod-retention-period": "scaleToZeroPodRetentionPeriod",
    "metric-aggregation-algorithm": "metricAggregationAlgorithm",
}
_SINGLE_SPELLING = ("activation-scale", "class", "metric", "target", "window")
KNOWN_KEYS = frozenset(f"{GROUP}/{name}" for name in (*_CAMEL_SPELLING, *_CAMEL_SPELLING.values(), *_SINGLE_SPELLING))


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """How one revision scales: annotations over cluster defaults, with targets and windows worked out."""

    metric: Metric
    aggregation: Aggregation
    total: float  # metric value that one pod may take at most (its capacity, for burst capacity)
    target: float  # metric value per pod that the autoscaler aims for
    target_burst_capacity: float
    min_scale: int
    max_scale: int  # 0: no limit
    initial_scale: int
    activation_scale: int
    scale_down_delay_s: float
    stable_window_s: float
    panic_window_s: float
    panic_threshold: float  # ratio of wanted to ready pods
    max_scale_up_rate: float
    max_scale_down_rate: float
    enable_scale_to_zero: bool
    grace_period_s: float
    retention_period_s: float
    activation_timeout_s: float
    tick_s: float


class _Reader:
    """Reads keys in both spellings and collects what is wrong with them."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._annotations = annotations
        self.problems: list[str] = []

    def raw(self, name: str) -> tuple[str, str] | None:
        for spelling in (name, _CAMEL_SPELLING.get(name, name)):
            key = f"{GROUP}/{spelling}"
            if key in self._annotations:
                return key, self._annotations[key]
        return None

    def number(
        self, name: str, parse: Callable[[str], float], holds: Callable[[float], bool], rule: str
    ) -> float | None:
        found = self.raw(name)
        if found is None:
            return None
        key, text = found
        try:
            value = parse(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not holds(value):
            self.problems.append(f"{key} must be {rule}, was {text!r}")
            return None
        return value

    def integer(self, name: str, least: int = 0) -> int | None:
        rule = f"an integer in [{least}, {MAX_INT32}]"
        value = self.number(name, _parse_integer, lambda v: least <= v <= MAX_INT32, rule)
        return None if value is None else int(value)

    def word(self, name: str, allowed: tuple[str, ...]) -> str | None:
        found = self.raw(name)
        if found is None:
            return None
        key, text = found
        if text not in allowed:
            self.problems.append(f"{key} must be one of {', '.join(filter(None, allowed))}, was {text!r}")
            return None
        return text


def resolve_scaling(
    annotations: Mapping[str, str],
    container_concurrency: int,
    config: KPAConfig,
    progress_deadline_s: float = 600.0,
) -> ScalingSpec:
    """The revision's ScalingSpec.

    `container_concurrency` is the hard limit per pod (0: none), `progress_deadline_s` the time a revision has to get
    its first pods ready. Raises InvalidScaling with every problem found, each naming key, range and value.
    """
    reader = _Reader(annotations)
    metric = _read_metric(reader)
    aggregation = _AGGREGATIONS[reader.word("metric-aggregation-algorithm", tuple(_AGGREGATIONS)) or ""]
    min_scale, max_scale, activation = _read_bounds(reader, config)
    initial_scale = _read_initial_scale(reader, config)
    target_annotation = reader.number(
        "target", _parse_number, lambda v: v >= TARGET_MIN, f"a number of at least {TARGET_MIN}"
    )
    utilization = _read_range(reader, "target-utilization-percentage", (1.0, 100.0))
    burst = reader.number(
        "target-burst-capacity",
        _parse_number,
        lambda v: v >= 0 or v == -1,
        "0 or more, or -1 (activator always in the path)",
    )
    window_s = reader.number(
        "window",
        parse_duration_s,
        lambda v: WINDOW_MIN_S <= v <= WINDOW_MAX_S and v.is_integer(),
        "a duration of whole seconds in [6s, 1h]",
    )
    delay_s = reader.number(
        "scale-down-delay",
        parse_duration_s,
        lambda v: 0 <= v <= WINDOW_MAX_S and v.is_integer(),
        "a duration of whole seconds in [0s, 1h]",
    )
    retention_s = reader.number(
        "scale-to-zero-pod-retention-period",
        parse_duration_s,
        lambda v: 0 <= v <= WINDOW_MAX_S,
        "a duration in [0s, 1h]",
    )
    panic_window = _read_range(reader, "panic-window-percentage", PANIC_WINDOW_PERCENTAGE_RANGE)
    panic_threshold = _read_range(reader, "panic-threshold-percentage", PANIC_THRESHOLD_PERCENTAGE_RANGE)
    if reader.problems:
        raise InvalidScaling(tuple(reader.problems))

    stable_window_s = config.stable_window_s if window_s is None else window_s
    panic_percentage = config.panic_window_percentage if panic_window is None else panic_window
    threshold_percentage = config.panic_threshold_percentage if panic_threshold is None else panic_threshold
    fraction = config.rps_target_fraction if metric == "rps" else config.container_concurrency_target_fraction
    if utilization is not None:
        fraction = utilization / 100.0
    total = _total(metric, target_annotation, container_concurrency, config)
    return ScalingSpec(
        metric=metric,
        aggregation=aggregation,
        total=total,
        target=max(TARGET_MIN, total * fraction),
        target_burst_capacity=config.target_burst_capacity if burst is None else burst,
        min_scale=min_scale,
        max_scale=max_scale,
        initial_scale=initial_scale,
        activation_scale=activation,
        scale_down_delay_s=config.scale_down_delay_s if delay_s is None else delay_s,
        stable_window_s=stable_window_s,
        # Knative rounds the panic window to whole buckets and never below one.
        panic_window_s=max(1.0, round_half_away(stable_window_s * panic_percentage / 100.0)),
        panic_threshold=threshold_percentage / 100.0,
        max_scale_up_rate=config.max_scale_up_rate,
        max_scale_down_rate=config.max_scale_down_rate,
        enable_scale_to_zero=config.enable_scale_to_zero,
        grace_period_s=config.scale_to_zero_grace_period_s,
        retention_period_s=config.scale_to_zero_pod_retention_period_s if retention_s is None else retention_s,
        activation_timeout_s=progress_deadline_s + ACTIVATION_TIMEOUT_BUFFER_S,
        tick_s=config.tick_s,
    )


def _parse_integer(text: str) -> int:
    # Python's int() also takes " 1 ", "1_000" and other scripts' digits, which Kubernetes would refuse.
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text!r} is not an integer")
    return int(text)


def _parse_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _read_metric(reader: _Reader) -> Metric:
    found = reader.raw("class")
    if found is not None and found[1] != KPA_CLASS:
        key, text = found
        why = " (the embedded platform has no metrics server)" if text == HPA_CLASS else ""
        reader.problems.append(f"{key} must be {KPA_CLASS}{why}, was {text!r}")
    return "rps" if reader.word("metric", ("concurrency", "rps")) == "rps" else "concurrency"


def _read_bounds(reader: _Reader, config: KPAConfig) -> tuple[int, int, int]:
    minimum = reader.integer("min-scale")
    maximum = reader.integer("max-scale")
    activation = reader.integer("activation-scale", least=2)
    min_scale = config.min_scale if minimum is None else minimum
    max_scale = config.max_scale if maximum is None else maximum
    limit = config.max_scale_limit
    if 0 < max_scale < min_scale:
        reader.problems.append(f"{GROUP}/max-scale={max_scale} is less than {GROUP}/min-scale={min_scale}")
    if maximum is not None and limit > 0 and not 1 <= maximum <= limit:
        reader.problems.append(f"{GROUP}/max-scale must be in [1, {limit}] (max-scale-limit), was {maximum}")
    if activation is not None and 0 < max_scale < activation:
        reader.problems.append(f"{GROUP}/max-scale={max_scale} is less than {GROUP}/activation-scale={activation}")
    if activation is not None and activation < min_scale:
        reader.problems.append(f"{GROUP}/min-scale={min_scale} is greater than {GROUP}/activation-scale={activation}")
    return min_scale, max_scale, 1 if activation is None else activation


def _read_initial_scale(reader: _Reader, config: KPAConfig) -> int:
    initial = reader.integer("initial-scale")
    if initial == 0 and not config.allow_zero_initial_scale:
        reader.problems.append(f"{GROUP}/initial-scale=0 is not allowed while allow-zero-initial-scale is false")
    return config.initial_scale if initial is None else initial


def _read_range(reader: _Reader, name: str, bounds: tuple[float, float]) -> float | None:
    low, high = bounds
    return reader.number(name, _parse_number, lambda v: low <= v <= high, f"a number in [{low:g}, {high:g}]")


def _total(metric: Metric, annotation: float | None, container_concurrency: int, config: KPAConfig) -> float:
    """Knative's ResolveMetricTarget: never aim above what a pod may take at once."""
    if metric == "rps":
        return config.requests_per_second_target_default if annotation is None else annotation
    if annotation is None:
        return float(container_concurrency) if container_concurrency else config.container_concurrency_target_default
    return min(annotation, float(container_concurrency)) if container_concurrency else annotation
