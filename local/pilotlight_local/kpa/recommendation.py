"""How many pods the traffic asks for: Knative's autoscaler arithmetic (`pkg/autoscaler/scaling`).

Panic mode, scale rates, activation scale, scale-down delay and excess burst capacity. Bounds and scale to zero are the
next step (`activity`). Pure: the state goes in and comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pilotlight_local.kpa.window import MaxWindow, MetricWindow, max_window
from pilotlight_specs.kpa.annotations import ScalingSpec


@dataclass(frozen=True, slots=True)
class MetricState:
    """What the traffic arithmetic remembers. `panic_since_s` is when the panic threshold last held, None in calm."""

    stable: MetricWindow
    panic: MetricWindow
    panic_since_s: float | None
    max_panic_pods: int
    delay: MaxWindow | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The pods that the traffic asks for, before bounds."""

    pods: int
    panicking: bool
    excess_burst_capacity: int
    stable_value: float
    panic_value: float
    reasons: tuple[str, ...]


def initial_metric_state(spec: ScalingSpec, ready_pods: int, now_s: float) -> MetricState:
    """Start in panic when more than one pod is up: history is lost, so the scale must not fall on guesswork."""
    return MetricState(
        stable=MetricWindow(size=math.ceil(spec.stable_window_s)),
        panic=MetricWindow(size=math.ceil(spec.panic_window_s)),
        panic_since_s=now_s if ready_pods > 1 else None,
        max_panic_pods=ready_pods,
        delay=max_window(spec.scale_down_delay_s, spec.tick_s) if spec.scale_down_delay_s > 0 else None,
    )


def excess_burst_capacity(spec: ScalingSpec, pods: int, panic_value: float) -> int:
    """Requests that `pods` could take on top of the burst to be ready for; negative: the activator must buffer."""
    if spec.target_burst_capacity == 0:
        return 0
    if spec.target_burst_capacity < 0:
        return -1
    return math.floor(pods * spec.total - spec.target_burst_capacity - panic_value)


def recommend(
    spec: ScalingSpec, ready_pods: int, reachable: bool, state: MetricState, now_s: float
) -> tuple[Recommendation | None, MetricState]:
    """The recommendation at `now_s`, or None when no metric arrived for a whole window (nothing to decide on)."""
    if state.stable.is_empty(now_s):
        return None, state
    average = MetricWindow.average if spec.aggregation == "linear" else MetricWindow.weighted_average
    stable_value, panic_value = average(state.stable, now_s), average(state.panic, now_s)
    ready = max(1, ready_pods)
    most = math.ceil(spec.max_scale_up_rate * ready)
    least = math.floor(ready / spec.max_scale_down_rate) if reachable else 0
    raw_stable = math.ceil(stable_value / spec.target)
    raw_panic = math.ceil(panic_value / spec.target)
    stable_pods = _activated(spec, raw_stable, min(max(raw_stable, least), most))
    panic_pods = _activated(spec, raw_panic, min(max(raw_panic, least), most))
    reasons = [
        f"{spec.metric} stable {stable_value:g} / panic {panic_value:g} over target {spec.target:g} "
        f"wants {raw_stable} / {raw_panic}; rates allow {least} to {most} from {ready_pods} ready"
    ]
    if (stable_pods, panic_pods) != (raw_stable, raw_panic):
        reasons.append(f"rates and activation-scale {spec.activation_scale} make that {stable_pods} / {panic_pods}")

    state = _panic_clock(spec, raw_panic / ready >= spec.panic_threshold, state, now_s)
    pods = stable_pods
    if state.panic_since_s is not None:
        pods = max(stable_pods, panic_pods, state.max_panic_pods)
        reasons.append(f"panic since {now_s - state.panic_since_s:g}s: hold the highest, {pods}")
        state = replace(state, max_panic_pods=pods)
    if reachable and state.delay is not None:
        delay = state.delay.record(now_s, pods)
        state = replace(state, delay=delay)
        if delay.current != pods:
            reasons.append(f"scale-down-delay {spec.scale_down_delay_s:g}s: {delay.current} instead of {pods}")
            pods = delay.current
    return (
        Recommendation(
            pods=pods,
            panicking=state.panic_since_s is not None,
            excess_burst_capacity=excess_burst_capacity(spec, ready_pods, panic_value),
            stable_value=stable_value,
            panic_value=panic_value,
            reasons=tuple(reasons),
        ),
        state,
    )


def _activated(spec: ScalingSpec, raw: int, pods: int) -> int:
    return max(pods, spec.activation_scale) if raw > 0 and spec.activation_scale > 1 else pods


def _panic_clock(spec: ScalingSpec, over_threshold: bool, state: MetricState, now_s: float) -> MetricState:
    """Panic restarts its clock each time the threshold holds and ends one stable window after it last did."""
    if over_threshold:
        return replace(state, panic_since_s=now_s)
    if state.panic_since_s is not None and now_s - state.panic_since_s > spec.stable_window_s:
        return replace(state, panic_since_s=None, max_panic_pods=0)
    return state
