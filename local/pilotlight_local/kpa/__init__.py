"""Knative's pod autoscaler as pure functions: metric windows and the decision itself."""

from pilotlight_local.kpa.autoscaler import Decision, KPAState, Observation, initial_state, is_dormant, record, scale
from pilotlight_local.kpa.window import RequestMeter, request_meter

__all__ = [
    "Decision",
    "KPAState",
    "Observation",
    "RequestMeter",
    "initial_state",
    "is_dormant",
    "record",
    "request_meter",
    "scale",
]
