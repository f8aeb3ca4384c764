"""Knative's pod autoscaler as pure functions: metric windows and the decision itself."""

from pilotlight_local.kpa.autoscaler import Decision, KPAState, Observation, initial_state, is_dormant, record, scale

__all__ = [
    "Decision",
    "KPAState",
    "Observation",
    "initial_state",
    "is_dormant",
    "record",
    "scale",
]
