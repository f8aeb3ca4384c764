"""What the platform looks like now, as values: one row per component and revision. Must not: print."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision
from pilotlight_local.controller.live_service import LiveService

ComponentPhase = Literal["Zero", "Mounting", "Starting", "Ready", "NotReady", "Draining", "Failed", "Waiting"]


@dataclass(frozen=True)
class PodStatus:
    """One pod."""

    name: str
    phase: str
    pid: int | None
    port: int
    in_flight: int
    log: str


@dataclass(frozen=True)
class ComponentStatus:
    """One revision of one component of one endpoint."""

    namespace: str
    endpoint: str
    component: str
    revision: str
    phase: ComponentPhase
    desired: int
    ready: int
    running: int
    queued: int
    traffic_percent: int
    path: str
    host: str
    reason: str
    pods: tuple[PodStatus, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values for `status --json`."""
        return asdict(self)


def describe(endpoint: LiveEndpoint) -> Iterator[ComponentStatus]:
    """The rows of one endpoint, its entry first."""
    for service in sorted(endpoint.services.values(), key=lambda service: service.component.role, reverse=True):
        for revision in service.live.values():
            yield _row(endpoint, service, revision)


def _row(endpoint: LiveEndpoint, service: LiveService, revision: LiveRevision) -> ComponentStatus:
    namespace, name = endpoint.name.namespace, endpoint.name.name
    return ComponentStatus(
        namespace=namespace,
        endpoint=name,
        component=revision.role,
        revision=revision.name,
        phase=_phase(revision),
        desired=revision.wanted_pods,
        ready=len(revision.ready_pods),
        running=revision.activator.running,
        queued=revision.activator.queued,
        traffic_percent=dict(service.traffic).get(revision.name, 0),
        path=f"/serving/{namespace}/{name}/" if revision.role == endpoint.entry else "",
        host=f"{name}.{namespace}.localhost" if revision.role == endpoint.entry else "",
        reason=_reason(revision),
        pods=tuple(
            PodStatus(
                name=pod.name,
                phase=pod.phase,
                pid=pod.process.pid if pod.process is not None else None,
                port=pod.backend.port,
                in_flight=pod.backend.in_flight,
                log=str(pod.log_path),
            )
            for pod in revision.pods
        ),
    )


def _phase(revision: LiveRevision) -> ComponentPhase:
    phases = {pod.phase for pod in revision.pods}
    order: tuple[ComponentPhase, ...] = ("Ready", "Starting", "Mounting", "NotReady", "Draining")
    for phase in order:
        if phase in phases:
            return phase
    if revision.failure is not None:
        return "Failed"
    return "Waiting" if revision.wanted_pods else "Zero"


def _reason(revision: LiveRevision) -> str:
    if revision.failure is not None:
        return revision.failure.reason
    for pod in revision.pods:
        if pod.phase == "Mounting" and (progress := pod.mount_progress()) is not None:
            return progress
    if revision.why_not_ready:
        return revision.why_not_ready
    is_leaving = revision.pods and not revision.wanted_pods
    return revision.decision.reasons[-1] if is_leaving and revision.decision and revision.decision.reasons else ""


def from_json(row: dict[str, Any]) -> ComponentStatus:
    """The inverse of `as_json`."""
    return ComponentStatus(**{**row, "pods": tuple(PodStatus(**pod) for pod in row["pods"])})
