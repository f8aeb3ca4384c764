"""What the ingress knows of the platform: the seam between traffic (HTTP and gRPC) and control.

`controller/routing_table.py` implements `EndpointTable`, tests use fakes. Must not: know which endpoints there are.
"""

from dataclasses import dataclass
from typing import Protocol

from pilotlight_local.activator.activator import Activator
from pilotlight_specs.desired import Role


@dataclass(frozen=True)
class EndpointName:
    """An InferenceService by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Destination:
    """The endpoint a request is for; `component` is None for its entry, which is what clients reach; `path` is what the
    pod sees."""

    endpoint: EndpointName
    component: Role | None
    path: str


class Route(Protocol):
    """One revision, chosen for one request."""

    @property
    def revision(self) -> str: ...

    @property
    def component(self) -> Role: ...

    @property
    def timeout_s(self) -> float:
        """The longest a request may take, waiting included."""

    @property
    def activator(self) -> Activator: ...

    def is_cold(self) -> bool:
        """Whether a request to this endpoint has to wait for a pod of any of its components."""

    def progress(self) -> tuple[str, float | None]:
        """What the endpoint is waiting for now, and in how many seconds it may be over (None: no experience)."""


class EndpointTable(Protocol):
    """All endpoints of the platform."""

    def find(self, host: str, path: str) -> Destination | None:
        """Where a request goes; None when no endpoint matches."""

    def choose(self, endpoint: EndpointName, component: Role | None) -> Route:
        """The revision for one request, by traffic percent; None as component means its entry. Raises UnknownHost."""

    def record(self, route: Route, status: int, duration_s: float, server_timing: str) -> None:
        """One request has ended (499: the client left first); the header says where its time went."""

    def metrics_text(self) -> str:
        """Prometheus text of the whole platform."""


_GENERATING = (
    "/infer",
    "/generate",
    "/generate_stream",
    "/completions",
    "/responses",
    "/ModelInfer",
    "/ModelStreamInfer",
)


def needs_model(method: str, path: str) -> bool:
    """Whether a request will need the model behind a transformer, as far as method and path tell.

    Listings, metadata, metrics, health and what is at no known path are the transformer's own affair: they wake
    nothing else. A request that this misses wakes the model all the same, when its transformer calls it.
    """
    bare = path.partition("?")[0].rstrip("/")
    return method == "POST" and (bare.endswith(_GENERATING) or bare.endswith(":predict"))
