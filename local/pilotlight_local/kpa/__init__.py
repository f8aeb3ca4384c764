"""Knative's pod autoscaler as pure functions: settings, annotations, metric windows and the decision itself."""

from .annotations import KNOWN_KEYS, ScalingSpec, resolve_scaling
from .autoscaler import Decision, KPAState, Observation, initial_state, is_dormant, record, scale
from .config import InvalidScaling, KPAConfig, default_config, parse_config, validate_config
from .durations import parse_duration_s
from .window import RequestMeter, request_meter

__all__ = [
    "KNOWN_KEYS",
    "Decision",
    "InvalidScaling",
    "KPAConfig",
    "KPAState",
    "Observation",
    "RequestMeter",
    "ScalingSpec",
    "default_config",
    "initial_state",
    "is_dormant",
    "parse_config",
    "parse_duration_s",
    "record",
    "request_meter",
    "resolve_scaling",
    "scale",
    "validate_config",
]
