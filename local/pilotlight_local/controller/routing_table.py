"""Which revision serves a request: what the ingress reads while the controller writes. One object for both.

Must not: change an endpoint, or know HTTP.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pilotlight_local.activator.activator import Activator
from pilotlight_local.controller import metrics_text
from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision
from pilotlight_local.errors import UnknownHost
from pilotlight_local.ingress.routes import Component as Role
from pilotlight_local.ingress.routes import Destination, EndpointName, find_destination
from pilotlight_local.ingress.table import Route
from pilotlight_wire.server_timing import Phase


class RequestEvents(Protocol):
    """Who watches cold requests: the live view, or plain log lines."""

    def cold_request(self, revision: str, status: int, duration_s: float, phases: Sequence[Phase]) -> None: ...


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """Implements `ingress.table.Route`. `hops`: the revisions that a request passes, the first one first."""

    revision: str
    component: Role
    timeout_s: float
    activator: Activator
    hops: tuple[LiveRevision, ...]
    was_cold_front: bool

    def is_cold(self) -> bool:
        return _first_cold(self.hops) is not None

    def progress(self) -> tuple[str, float | None]:
        cold = _first_cold(self.hops)
        return ("answering", None) if cold is None else (f"{cold.role}-{_phase(cold)}", _eta_s(cold))


def _first_cold(hops: Sequence[LiveRevision]) -> LiveRevision | None:
    return next((revision for revision in hops if not revision.activator.has_ready), None)


def _phase(revision: LiveRevision) -> str:
    return revision.pods[-1].phase.lower() if revision.pods else "scheduling"


def _eta_s(revision: LiveRevision) -> float | None:
    if revision.boots.last_boot_s is None:
        return None
    passed_s = 0.0 if revision.boots.started_s is None else asyncio.get_running_loop().time() - revision.boots.started_s
    return max(0.0, revision.boots.last_boot_s - passed_s)


class RoutingTable:
    """Implements `ingress.table.EndpointTable`."""

    def __init__(self, rng: Random, events: RequestEvents) -> None:
        self._rng = rng
        self._events = events
        self._requests: Counter[tuple[str, int]] = Counter()
        self.endpoints: dict[EndpointName, LiveEndpoint] = {}

    def find(self, host: str, path: str) -> Destination | None:
        return find_destination(host, path, self.endpoints.__contains__)

    def choose(self, endpoint: EndpointName, component: Role | None) -> RevisionRoute:
        live = self.endpoints.get(endpoint)
        if live is None:
            raise UnknownHost(f"no endpoint {endpoint}")
        service = live.services.get(component or live.front)
        if service is None:
            raise UnknownHost(f"{endpoint} has no {component}")
        names, percents = zip(*service.traffic, strict=True)
        revision = service.live[names[0] if len(names) == 1 else self._rng.choices(names, weights=percents)[0]]
        role = service.component.role
        hops = (revision, live.services["predictor"].main) if role == "transformer" else (revision,)
        return RevisionRoute(
            revision=revision.name,
            component=role,
            timeout_s=float(revision.component.timeout_s),
            activator=revision.activator,
            hops=hops,
            was_cold_front=component is None and _first_cold(hops) is not None,
        )

    def record(self, route: Route, status: int, duration_s: float, phases: Sequence[Phase]) -> None:
        self._requests[route.revision, status] += 1
        if isinstance(route, RevisionRoute) and route.was_cold_front:
            self._events.cold_request(route.revision, status, duration_s, phases)

    def metrics_text(self) -> str:
        return metrics_text.render(self._requests, self.endpoints.values())
