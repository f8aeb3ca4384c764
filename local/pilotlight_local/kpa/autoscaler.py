"""Knative's KPA for one revision: `scale(spec, observation, state, now_s) -> (decision, state)`.

Adds to the traffic's recommendation what Knative's PodAutoscaler reconciler adds: bounds, initial scale, the way to
zero, and whether the activator stands in the path. No I/O, no clock, no logging: the decision carries its reasons.

    activity     becomes                     when
    activating   active                      ready pods reach max(min-scale, initial-scale first, 1 later)
    activating   inactive, 0 pods            not active within the progress deadline + 30 s
    active       inactive, pods kept         the traffic wants 0 and it was active for a stable window
    inactive     (stays) 0 pods              inactive >= max(grace, retention), or retention over and the activator in
                                             the path for the grace period (the usual, fast way)
    any          activating                  the traffic wants pods and too few are ready
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pilotlight_local.kpa.recommendation import MetricState, excess_burst_capacity, initial_metric_state, recommend
from pilotlight_specs.kpa.annotations import ScalingSpec

Activity = Literal["activating", "active", "inactive"]
Mode = Literal["stable", "panic", "no-data"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What is true now. `reachable`: a route sends traffic to this revision."""

    ready_pods: int
    reachable: bool = True


@dataclass(frozen=True, slots=True)
class KPAState:
    """What the autoscaler remembers of one revision between decisions. Times are on the caller's monotonic clock."""

    metrics: MetricState
    recommended: int | None  # None until the first metric
    excess_burst_capacity: int
    applied_scale: int
    activity: Activity
    activity_since_s: float
    proxy_since_s: float | None  # since when the activator is in the path
    initialized: bool  # the initial scale was reached once


@dataclass(frozen=True, slots=True)
class Decision:
    """How many pods to run now (`desired_scale`), how requests travel, and why."""

    desired_scale: int
    mode: Mode
    excess_burst_capacity: int
    activator_in_path: bool
    activity: Activity
    activation_timed_out: bool
    reasons: tuple[str, ...]


def initial_state(spec: ScalingSpec, ready_pods: int, now_s: float) -> KPAState:
    """State of a revision that the autoscaler sees for the first time: activating, at its initial scale."""
    burst = spec.target_burst_capacity
    capacity = int(burst) if burst in {-1, 0} else excess_burst_capacity(spec, spec.initial_scale, 0.0)
    return KPAState(
        metrics=initial_metric_state(spec, ready_pods, now_s),
        recommended=None,
        excess_burst_capacity=capacity,
        applied_scale=max(spec.initial_scale, ready_pods),
        activity="activating",
        activity_since_s=now_s,
        proxy_since_s=None,
        initialized=False,
    )


def record(spec: ScalingSpec, state: KPAState, now_s: float, value: float) -> KPAState:
    """Add one second's metric: the average concurrency in it, or the requests in it (`spec.metric`).

    Call it every second while pods are ready or requests wait, and at once (value 1) for the first request at zero.
    At zero without requests call nothing: Knative scrapes nothing then, and a silent window means "no data".
    """
    metrics = replace(
        state.metrics, stable=state.metrics.stable.record(now_s, value), panic=state.metrics.panic.record(now_s, value)
    )
    return replace(state, metrics=metrics)


def is_dormant(state: KPAState, now_s: float) -> bool:
    """At zero with empty windows: no decision can change before the next request, so ticking may stop."""
    return state.activity == "inactive" and state.applied_scale == 0 and state.metrics.stable.is_empty(now_s)


def scale(spec: ScalingSpec, observation: Observation, state: KPAState, now_s: float) -> tuple[Decision, KPAState]:
    """Decide for one revision at `now_s`. Call it every `spec.tick_s`, and at once when a request finds it at zero."""
    advice, metrics = recommend(spec, observation.ready_pods, observation.reachable, state.metrics, now_s)
    state = replace(state, metrics=metrics)
    if advice is None:
        mode: Mode = "no-data"
        reasons: tuple[str, ...] = ("no metric for a whole stable window: the last decision stands",)
    else:
        mode = "panic" if advice.panicking else "stable"
        reasons = advice.reasons
        state = replace(state, recommended=advice.pods, excess_burst_capacity=advice.excess_burst_capacity)

    target = _bounded(spec, observation, state)
    # Nobody comes back to an unreachable revision: its last pod is not retained.
    retention_s = spec.retention_period_s if observation.reachable else 0.0
    step = _toward_zero(spec, retention_s, target.want, state, now_s)
    if step.apply and step.want is not None:
        state = replace(state, applied_scale=step.want)
    in_path = step.want == 0 or state.excess_burst_capacity < 0 or (step.want is None and state.activity == "inactive")
    proxy_since_s = (now_s if state.proxy_since_s is None else state.proxy_since_s) if in_path else None
    timed_out = step.want == 0 and state.activity == "activating"
    state = _with_activity(spec, step.want, observation, replace(state, proxy_since_s=proxy_since_s), now_s)
    return (
        Decision(
            desired_scale=state.applied_scale,
            mode=mode,
            excess_burst_capacity=state.excess_burst_capacity,
            activator_in_path=in_path,
            activity=state.activity,
            activation_timed_out=timed_out,
            reasons=(*reasons, *target.reasons, *step.reasons),
        ),
        state,
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """Pods wanted (None: unknown, no metrics yet), whether to apply that now, and when to look again."""

    want: int | None
    apply: bool = True
    reasons: tuple[str, ...] = ()


def _bounded(spec: ScalingSpec, observation: Observation, state: KPAState) -> _Step:
    """Min, max and initial scale. Nobody can reach an unreachable revision: only its max-scale holds."""
    if state.recommended is None and state.activity != "activating":
        return _Step(want=None)
    low = spec.min_scale if observation.reachable else 0
    if spec.initial_scale > 1 and not state.initialized and observation.reachable:
        low = max(low, spec.initial_scale)
    wanted = -1 if state.recommended is None else state.recommended
    bounded = low if wanted < low else min(wanted, spec.max_scale) if spec.max_scale else wanted
    if bounded == wanted or (wanted == -1 and bounded == 0):
        return _Step(want=bounded)
    return _Step(
        want=bounded, reasons=(f"min-scale {low} and max-scale {spec.max_scale or 'none'} make that {bounded}",)
    )


def _toward_zero(spec: ScalingSpec, retention_s: float, want: int | None, state: KPAState, now_s: float) -> _Step:
    if want is None:
        return _Step(want=None, apply=False)
    if want > 0:
        return _Step(want=want)
    if not spec.enable_scale_to_zero:
        return _Step(want=1, reasons=("enable-scale-to-zero is false: keep 1",))
    since_s = now_s - state.activity_since_s
    if state.activity == "activating":
        return _give_up_activation(spec, since_s)
    if state.activity == "active":
        return _leave_active(spec, since_s)
    return _leave_inactive(spec, retention_s, since_s, state, now_s)


def _give_up_activation(spec: ScalingSpec, since_s: float) -> _Step:
    if since_s > spec.activation_timeout_s:
        return _Step(want=0, reasons=(f"could not be activated within {spec.activation_timeout_s:g} s",))
    return _Step(want=None, apply=False)


def _leave_active(spec: ScalingSpec, since_s: float) -> _Step:
    if since_s >= spec.stable_window_s:
        return _Step(want=0, apply=False, reasons=("idle: inactive from now on, activator in the path",))
    left_s = spec.stable_window_s - since_s
    return _Step(want=1, reasons=(f"active for {since_s:.0f} s only: keep 1 for another {left_s:.0f} s",))


def _leave_inactive(spec: ScalingSpec, retention_s: float, since_s: float, state: KPAState, now_s: float) -> _Step:
    if state.proxy_since_s is None:
        return _Step(want=0, apply=False, reasons=("the activator is not in the path yet: cannot scale to zero",))
    longest_s = max(spec.grace_period_s, retention_s)
    if since_s >= longest_s:
        return _Step(want=0, reasons=(f"inactive for {since_s:.0f} s, {longest_s:g} s are enough: scale to zero",))
    if since_s < retention_s:
        left_s = retention_s - since_s
        return _Step(want=0, apply=False, reasons=(f"last pod retained for {left_s:.0f} s more",))
    proxied_s = now_s - state.proxy_since_s
    if proxied_s >= spec.grace_period_s:
        return _Step(want=0, reasons=(f"activator in the path for {proxied_s:.0f} s: scale to zero",))
    left_s = spec.grace_period_s - proxied_s
    return _Step(want=0, apply=False, reasons=(f"grace period: {left_s:.0f} s more",))


def _ready_needed(spec: ScalingSpec, state: KPAState, observation: Observation) -> int:
    low = spec.min_scale if observation.reachable else 0
    return max(low, 1) if state.initialized else max(low, spec.initial_scale)


def _with_activity(
    spec: ScalingSpec, want: int | None, observation: Observation, state: KPAState, now_s: float
) -> KPAState:
    needed = _ready_needed(spec, state, observation)
    enough = observation.ready_pods >= needed
    state = replace(state, initialized=state.initialized or enough)
    activity: Activity
    if want == 0 or needed == 0 or (want is None and state.activity == "inactive"):
        activity = "inactive"
    else:
        activity = "active" if enough else "activating"
    if activity == state.activity:
        return state
    return replace(state, activity=activity, activity_since_s=now_s)
