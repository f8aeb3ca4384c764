"""The desired state that the applied files describe, as KServe in Knative mode would turn it into pods. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilotlight_specs.findings import Finding
from pilotlight_specs.kpa import ScalingSpec

Role = Literal["predictor", "transformer"]
ProbeKind = Literal["http", "tcp", "exec", "grpc"]

MODEL_MOUNT_PATH = "/mnt/models"
CONTAINER_NAME = "kserve-container"
DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of a container. `period_s` 0 is Knative's: poll every 50 ms until it succeeds."""

    kind: ProbeKind = "tcp"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    initial_delay_s: int = 0
    period_s: int = 0
    timeout_s: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One environment variable, its value as declared: `$(OTHER)` is not expanded yet."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Container:
    """The serving container of a pod. `port` is the declared container port, which the pod's real port replaces."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...]
    working_dir: str
    port: int
    protocol: Literal["http1", "h2c"]
    readiness: Probe
    liveness: Probe | None
    startup: Probe | None


@dataclass(frozen=True, slots=True)
class ModelMount:
    """A model that must lie at `mount_path` before the container starts (KServe's storage initializer)."""

    uri: str
    mount_path: str


@dataclass(frozen=True, slots=True)
class EmptyDir:
    """A fresh directory per pod."""

    name: str
    mount_path: str


@dataclass(frozen=True, slots=True)
class PodSpec:
    """One pod of a component."""

    container: Container
    mounts: tuple[ModelMount, ...]
    empty_dirs: tuple[EmptyDir, ...]
    termination_grace_period_s: int


@dataclass(frozen=True, slots=True)
class Component:
    """A predictor or a transformer: what KServe makes one Knative Service of."""

    role: Role
    isvc: str
    namespace: str
    service_name: str  # "<isvc>-predictor"
    pod: PodSpec
    scaling: ScalingSpec
    annotations: tuple[tuple[str, str], ...]
    container_concurrency: int  # 0: no limit
    timeout_s: int
    canary_traffic_percent: int | None
    progress_deadline_s: float


@dataclass(frozen=True, slots=True)
class InferenceService:
    """One endpoint."""

    name: str
    namespace: str
    predictor: Component
    transformer: Component | None

    @property
    def components(self) -> tuple[Component, ...]:
        """In the order in which a request meets them."""
        return (self.predictor,) if self.transformer is None else (self.transformer, self.predictor)


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything that the files ask for, and everything to say about them."""

    services: tuple[InferenceService, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")
