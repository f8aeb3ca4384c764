"""Revisions of one component and the traffic between them, as KServe 0.20 has Knative do it. Pure.

    phase       becomes     when
    Deploying   Ready       it has as many ready pods as it needs once (`RevisionHealth.proven`)
    Deploying   Failed      its pods cannot start (`failure`), or the progress deadline passed
    Failed      Ready       its pods became ready after all (a crash loop may heal)
    Ready       Ready       for good: a crash later on is for the back-off and the autoscaler, not for the rollout

The newest revision takes traffic only once it is Ready; until then those that had it keep it, so a change-over loses no
request. The very first revision has nobody to keep it: requests wait for it, or fail at once when it is Failed.
`canaryTrafficPercent` absent: all to the latest ready one. Set: that share to the latest ready one, the rest to the
revision that was rolled out with 100 % before. Removing it promotes the canary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pilotlight_specs.desired import Component

RevisionPhase = Literal["Deploying", "Ready", "Failed"]
# Fields of a component that Knative keeps outside of the revision template: changing them makes no revision.
_NOT_IN_TEMPLATE = ("canary_traffic_percent", "scaling")


@dataclass(frozen=True, slots=True)
class PodFailure:
    """Why the pods of a revision cannot start, with the last lines that they logged."""

    reason: str
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """What is applied. `keep_unrouted`: old revisions kept for a rollback (Knative's garbage collection keeps 2)."""

    service_name: str
    template_hash: str
    canary_traffic_percent: int | None
    progress_deadline_s: float = 600.0
    trust_first: bool = False  # initial-scale 0: the first revision is Ready without having started a pod
    keep_unrouted: int = 2


@dataclass(frozen=True, slots=True)
class RevisionHealth:
    """What the runtime sees of one revision now.

    `proven`: it has as many ready pods as it needs to be called ready. `failure`: no pod is ready and the last one to
    start ended before it was (set it at the first crash, clear it when a pod becomes ready).
    """

    proven: bool = False
    failure: PodFailure | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable version of a component's pods. With a `failure`, requests for it are answered 503 at once."""

    name: str
    template_hash: str
    created_at_s: float
    phase: RevisionPhase
    failure: PodFailure | None = None


@dataclass(frozen=True, slots=True)
class RolloutState:
    """Revisions, oldest first. `rolled_out` had 100 % last, `rolled_out_before` the one before it."""

    revisions: tuple[Revision, ...] = ()
    next_number: int = 1
    rolled_out: str = ""
    rolled_out_before: str = ""


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """Who gets requests, who must start, who may go, and why."""

    latest_created: str
    latest_ready: str | None
    candidate: str | None  # has no traffic until it is ready: run at least one pod of it, whatever the autoscaler says
    traffic: tuple[tuple[str, int], ...]  # (revision, percent > 0), 100 in all
    failures: tuple[tuple[str, PodFailure], ...]  # revisions whose pods cannot start
    unrouted: tuple[str, ...]  # reachable=False for the autoscaler; their pods drain
    removed: tuple[str, ...]  # forgotten: stop whatever is left of them
    reasons: tuple[str, ...]


def template_hash(component: Component) -> str:
    """Content hash of everything that makes a new revision when it changes: pod, annotations, concurrency, timeout."""
    content = dataclasses.asdict(component)
    for name in _NOT_IN_TEMPLATE:
        del content[name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def rollout_spec(component: Component) -> RolloutSpec:
    """The rollout that an applied component asks for."""
    return RolloutSpec(
        service_name=component.service_name,
        template_hash=template_hash(component),
        canary_traffic_percent=component.canary_traffic_percent,
        progress_deadline_s=component.progress_deadline_s,
        trust_first=component.scaling.initial_scale == 0 and component.scaling.min_scale == 0,
    )


def decide(
    spec: RolloutSpec, observation: Mapping[str, RevisionHealth], state: RolloutState, now_s: float
) -> tuple[RolloutDecision, RolloutState]:
    """One step of the rollout. `observation` maps revision names to what is seen of them; missing ones show nothing."""
    reasons: list[str] = []
    state = _with_latest(spec, state, now_s, reasons)
    revisions = tuple(
        _judge(spec, revision, observation.get(revision.name, RevisionHealth()), now_s, reasons)
        for revision in state.revisions
    )
    latest = revisions[-1]
    latest_ready = next((revision.name for revision in reversed(revisions) if revision.phase == "Ready"), None)
    traffic, state = _split(spec, latest.name, latest_ready, replace(state, revisions=revisions), reasons)
    state, removed = _collect(spec, state, {name for name, _ in traffic} | {latest.name})
    routed = {name for name, _ in traffic}
    trying = latest.phase != "Ready" and now_s - latest.created_at_s < spec.progress_deadline_s
    return (
        RolloutDecision(
            latest_created=latest.name,
            latest_ready=latest_ready,
            candidate=latest.name if trying and latest.name not in routed else None,
            traffic=traffic,
            failures=tuple((item.name, item.failure) for item in state.revisions if item.failure is not None),
            unrouted=tuple(
                item.name
                for item in state.revisions
                if item.name not in routed and (item.name != latest.name or (latest.phase == "Failed" and not trying))
            ),
            removed=removed,
            reasons=tuple(reasons),
        ),
        state,
    )


def _with_latest(spec: RolloutSpec, state: RolloutState, now_s: float, reasons: list[str]) -> RolloutState:
    first = not state.revisions
    if not first and state.revisions[-1].template_hash == spec.template_hash:
        return state
    name = f"{spec.service_name}-{state.next_number:05d}"
    phase: RevisionPhase = "Ready" if spec.trust_first and first else "Deploying"
    reasons.append(f"{name} is created: " + ("the first one" if first else "its template differs from the one before"))
    return replace(
        state,
        revisions=(*state.revisions, Revision(name, spec.template_hash, now_s, phase)),
        next_number=state.next_number + 1,
    )


def _judge(spec: RolloutSpec, revision: Revision, health: RevisionHealth, now_s: float, reasons: list[str]) -> Revision:
    if revision.phase == "Ready":
        return replace(revision, failure=health.failure)
    if health.proven:
        reasons.append(f"{revision.name} is ready")
        return replace(revision, phase="Ready", failure=None)
    failure = health.failure or revision.failure
    if failure is None and now_s - revision.created_at_s >= spec.progress_deadline_s:
        failure = PodFailure(f"not ready within the progress deadline of {spec.progress_deadline_s:g}s")
    if failure is None:
        return revision
    if revision.phase == "Deploying":
        reasons.append(f"{revision.name} failed: {failure.reason}")
    return replace(revision, phase="Failed", failure=failure)


def _split(
    spec: RolloutSpec, latest: str, ready: str | None, state: RolloutState, reasons: list[str]
) -> tuple[tuple[tuple[str, int], ...], RolloutState]:
    """The traffic, and the state with `rolled_out` moved on (or back, for a canary percent set after the roll-out)."""
    if ready is None:
        return ((latest, 100),), state
    percent = 100 if spec.canary_traffic_percent is None else spec.canary_traffic_percent
    known = {revision.name for revision in state.revisions}
    base = state.rolled_out if state.rolled_out in known else ""
    before = state.rolled_out_before if state.rolled_out_before in known else ""
    if base == ready and percent < 100 and ready == latest and before and before != ready:
        reasons.append(f"{ready} was rolled out and is a canary again: back to {before}")
        base = before
        state = replace(state, rolled_out=before)
    if base in ("", ready) or percent == 100:
        if base != ready:
            reasons.append(f"{ready} is rolled out with 100 %")
            state = replace(state, rolled_out=ready, rolled_out_before=base)
        return ((ready, 100),), state
    split = tuple((name, share) for name, share in ((ready, percent), (base, 100 - percent)) if share > 0)
    return split, state


def _collect(spec: RolloutSpec, state: RolloutState, needed: set[str]) -> tuple[RolloutState, tuple[str, ...]]:
    """Forget old revisions without traffic, but the newest `keep_unrouted` and those that a rollback would need."""
    kept = needed | {state.rolled_out, state.rolled_out_before}
    spare = [revision.name for revision in state.revisions if revision.name not in kept]
    removed = tuple(spare[: max(0, len(spare) - spec.keep_unrouted)])
    remaining = tuple(revision for revision in state.revisions if revision.name not in removed)
    return replace(state, revisions=remaining), removed
