"""What the ingress needs to know of the platform: the seam between traffic (ingress, gRPC proxy) and control.

Only interfaces stand here; `routing_table.py` implements them, tests use fakes.
"""

from collections.abc import Sequence
from typing import Protocol

from pilotlight_local.activator.activator import Activator
from pilotlight_local.ingress.routes import Component, Destination, EndpointName
from pilotlight_wire.server_timing import Phase


class Route(Protocol):
    """One revision, chosen for one request."""

    @property
    def revision(self) -> str: ...

    @property
    def component(self) -> Component: ...

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

    def choose(self, endpoint: EndpointName, component: Component | None) -> Route:
        """The revision for one request, by traffic percent; None as component means the front. Raises UnknownHost."""

    def record(self, route: Route, status: int, duration_s: float, phases: Sequence[Phase]) -> None:
        """One request has ended (499: the client left first)."""

    def metrics_text(self) -> str:
        """Prometheus text of the whole platform."""
