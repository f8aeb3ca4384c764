"""What Knative's pod autoscaler is told: its configuration, and a revision's annotations."""

from pilotlight_specs.kpa.annotations import KNOWN_KEYS, ScalingSpec, resolve_scaling
from pilotlight_specs.kpa.config import InvalidScaling, KPAConfig, default_config, parse_config, validate_config
from pilotlight_specs.kpa.durations import parse_duration_s

__all__ = [
    "KNOWN_KEYS",
    "InvalidScaling",
    "KPAConfig",
    "ScalingSpec",
    "default_config",
    "parse_config",
    "parse_duration_s",
    "resolve_scaling",
    "validate_config",
]
