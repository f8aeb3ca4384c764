"""Cluster-wide autoscaler settings: Knative's `config-autoscaler` ConfigMap, its defaults, its parsing, its checks.

Defaults stand in one function, parsing follows, validation comes last, as in Knative's `pkg/autoscaler/config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pilotlight_specs.kpa.durations import format_duration, parse_duration_s

TARGET_MIN = 0.01
WINDOW_MIN_S = 6.0
WINDOW_MAX_S = 3600.0
PANIC_WINDOW_PERCENTAGE_RANGE = (1.0, 100.0)
PANIC_THRESHOLD_PERCENTAGE_RANGE = (110.0, 1000.0)
KPA_CLASS = "kpa.autoscaling.knative.dev"
HPA_CLASS = "hpa.autoscaling.knative.dev"


class InvalidScaling(ValueError):
    """One or more autoscaling keys are wrong; `problems` names key, range and actual value of each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class KPAConfig:
    """Cluster-level defaults of the autoscaler. Field names are config-autoscaler's keys plus their unit."""

    pod_autoscaler_class: str
    enable_scale_to_zero: bool
    allow_zero_initial_scale: bool
    max_scale_up_rate: float
    max_scale_down_rate: float
    container_concurrency_target_fraction: float
    container_concurrency_target_default: float
    rps_target_fraction: float  # Knative's TargetUtilization: no key sets it
    requests_per_second_target_default: float
    target_burst_capacity: float
    panic_window_percentage: float
    panic_threshold_percentage: float
    initial_scale: int
    min_scale: int
    max_scale: int
    max_scale_limit: int
    stable_window_s: float
    scale_down_delay_s: float
    scale_to_zero_grace_period_s: float
    scale_to_zero_pod_retention_period_s: float
    tick_s: float


def default_config() -> KPAConfig:
    """Knative Serving 1.23's defaults."""
    return KPAConfig(
        pod_autoscaler_class=KPA_CLASS,
        enable_scale_to_zero=True,
        allow_zero_initial_scale=False,
        max_scale_up_rate=1000.0,
        max_scale_down_rate=2.0,
        container_concurrency_target_fraction=0.7,
        container_concurrency_target_default=100.0,
        rps_target_fraction=0.7,
        requests_per_second_target_default=200.0,
        target_burst_capacity=211.0,
        panic_window_percentage=10.0,
        panic_threshold_percentage=200.0,
        initial_scale=1,
        min_scale=0,
        max_scale=0,
        max_scale_limit=0,
        stable_window_s=60.0,
        scale_down_delay_s=0.0,
        scale_to_zero_grace_period_s=30.0,
        scale_to_zero_pod_retention_period_s=0.0,
        tick_s=2.0,
    )


def _boolean(text: str) -> bool:
    if text.lower() in {"true", "1", "t"}:
        return True
    if text.lower() in {"false", "0", "f"}:
        return False
    raise ValueError("it must be true or false")


_PARSERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "pod-autoscaler-class": ("pod_autoscaler_class", str),
    "enable-scale-to-zero": ("enable_scale_to_zero", _boolean),
    "allow-zero-initial-scale": ("allow_zero_initial_scale", _boolean),
    "max-scale-up-rate": ("max_scale_up_rate", float),
    "max-scale-down-rate": ("max_scale_down_rate", float),
    "container-concurrency-target-percentage": ("container_concurrency_target_fraction", float),
    "container-concurrency-target-default": ("container_concurrency_target_default", float),
    "requests-per-second-target-default": ("requests_per_second_target_default", float),
    "target-burst-capacity": ("target_burst_capacity", float),
    "panic-window-percentage": ("panic_window_percentage", float),
    "panic-threshold-percentage": ("panic_threshold_percentage", float),
    "initial-scale": ("initial_scale", int),
    "min-scale": ("min_scale", int),
    "max-scale": ("max_scale", int),
    "max-scale-limit": ("max_scale_limit", int),
    "stable-window": ("stable_window_s", parse_duration_s),
    "scale-down-delay": ("scale_down_delay_s", parse_duration_s),
    "scale-to-zero-grace-period": ("scale_to_zero_grace_period_s", parse_duration_s),
    "scale-to-zero-pod-retention-period": ("scale_to_zero_pod_retention_period_s", parse_duration_s),
}


def parse_config(data: Mapping[str, str], base: KPAConfig | None = None) -> KPAConfig:
    """The configuration in a config-autoscaler map over `base` (default: Knative's). Raises InvalidScaling."""
    problems: list[str] = []
    fields: dict[str, object] = {}
    for key, text in data.items():
        if key.startswith("_") or key == "activator-capacity":
            continue
        if key not in _PARSERS:
            problems.append(f"{key} is not a config-autoscaler key")
            continue
        field, parse = _PARSERS[key]
        try:
            fields[field] = parse(text)
        except ValueError as error:
            problems.append(f"{key} = {text!r}: {error}")
    if problems:
        raise InvalidScaling(tuple(problems))
    fraction = fields.get("container_concurrency_target_fraction")
    # Values in (0, 1] are fractions for legacy reasons; larger ones are percentages.
    if isinstance(fraction, float) and fraction > 1.0:
        fields["container_concurrency_target_fraction"] = fraction / 100.0
    config = replace(base or default_config(), **fields)  # type: ignore[arg-type]
    validate_config(config)
    return config


def validate_config(config: KPAConfig) -> None:
    """Raise InvalidScaling listing every value that Knative would refuse."""
    fraction = config.container_concurrency_target_fraction
    target = fraction * config.container_concurrency_target_default
    low, high = PANIC_WINDOW_PERCENTAGE_RANGE
    lowest_initial = 0 if config.allow_zero_initial_scale else 1
    lowest_max = 1 if config.max_scale_limit > 0 else 0
    above_limit = 0 < config.max_scale_limit < config.max_scale
    checks = (
        (
            config.scale_to_zero_grace_period_s > 0,
            f"scale-to-zero-grace-period must be positive, was {format_duration(config.scale_to_zero_grace_period_s)}",
        ),
        (
            config.scale_down_delay_s >= 0 and config.scale_down_delay_s.is_integer(),
            "scale-down-delay must be whole seconds and not negative, "
            f"was {format_duration(config.scale_down_delay_s)}",
        ),
        (
            config.scale_to_zero_pod_retention_period_s >= 0,
            "scale-to-zero-pod-retention-period cannot be negative, "
            f"was {format_duration(config.scale_to_zero_pod_retention_period_s)}",
        ),
        (
            config.target_burst_capacity >= 0 or config.target_burst_capacity == -1,
            f"target-burst-capacity must be 0 or more, or -1 for unlimited, was {config.target_burst_capacity:g}",
        ),
        (
            0 < fraction <= 1,
            f"container-concurrency-target-percentage must be in (0, 100], was {fraction * 100:g}",
        ),
        (
            target >= TARGET_MIN,
            "container-concurrency-target-percentage and container-concurrency-target-default give a target of "
            f"{target:g}, must be at least {TARGET_MIN}",
        ),
        (
            config.requests_per_second_target_default >= TARGET_MIN,
            f"requests-per-second-target-default must be at least {TARGET_MIN}, "
            f"was {config.requests_per_second_target_default:g}",
        ),
        (
            config.max_scale_up_rate > 1,
            f"max-scale-up-rate must be greater than 1, was {config.max_scale_up_rate:g}",
        ),
        (
            config.max_scale_down_rate > 1,
            f"max-scale-down-rate must be greater than 1, was {config.max_scale_down_rate:g}",
        ),
        (
            WINDOW_MIN_S <= config.stable_window_s <= WINDOW_MAX_S and config.stable_window_s.is_integer(),
            f"stable-window must be whole seconds in [6s, 1h], was {format_duration(config.stable_window_s)}",
        ),
        (
            low <= config.panic_window_percentage <= high,
            f"panic-window-percentage must be in [{low:g}, {high:g}], was {config.panic_window_percentage:g}",
        ),
        (
            config.initial_scale >= lowest_initial,
            f"initial-scale must be at least {lowest_initial} "
            f"(allow-zero-initial-scale is {str(config.allow_zero_initial_scale).lower()}), was {config.initial_scale}",
        ),
        (config.min_scale >= 0, f"min-scale must be 0 or more, was {config.min_scale}"),
        (config.max_scale_limit >= 0, f"max-scale-limit must be 0 or more, was {config.max_scale_limit}"),
        (
            config.max_scale >= lowest_max and not above_limit,
            f"max-scale must be in [{lowest_max}, max-scale-limit({config.max_scale_limit})], was {config.max_scale}",
        ),
        (
            config.max_scale <= 0 or config.min_scale <= config.max_scale,
            f"min-scale ({config.min_scale}) must be at most max-scale ({config.max_scale})",
        ),
        (config.tick_s > 0, f"the tick must be positive, was {config.tick_s:g}s"),
    )
    problems = tuple(message for holds, message in checks if not holds)
    if problems:
        raise InvalidScaling(problems)
