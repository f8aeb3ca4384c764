"""Which revision serves a request: what the ingress reads while the controller writes. One object for both.

Hosts: `<isvc>.<ns>.localhost` (what clients use), `<isvc>-predictor.<ns>.localhost` and
`<isvc>-transformer.<ns>.localhost` (what a component is called inside a cluster). Paths: `/serving/<ns>/<isvc>/…` on
any other host, prefix removed. Must not: change an endpoint.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pilotlight_local.activator.activator import Activator
from pilotlight_local.controller import metrics_text
from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision
from pilotlight_local.errors import UnknownHost
from pilotlight_local.ingress.routes import Destination, EndpointName, Route
from pilotlight_specs.desired import Role
from pilotlight_wire.hop_headers import Phase, parse_phases

PATH_PREFIX = "/serving/"
DOMAIN = ".localhost"


class RequestEvents(Protocol):
    """Who watches cold requests: the live view, or plain log lines."""

    def cold_request(self, revision: str, status: int, duration_s: float, phases: Sequence[Phase]) -> None: ...


@dataclass(frozen=True, slots=True)
class RevisionRoute:
    """Implements `ingress.routes.Route`. `hops`: the revisions that a request passes, the first one first."""

    revision: str
    component: Role
    timeout_s: float
    activator: Activator
    hops: tuple[LiveRevision, ...]
    was_cold_start: bool

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
    """Implements `ingress.routes.EndpointTable`."""

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
            raise UnknownHost(f"no endpoint {endpoint}; `pilotlight status` lists them")
        service = live.services.get(component or live.entry)
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
            was_cold_start=component is None and _first_cold(hops) is not None,
        )

    def record(self, route: Route, status: int, duration_s: float, server_timing: str) -> None:
        self._requests[route.revision, status] += 1
        if isinstance(route, RevisionRoute) and route.was_cold_start:
            self._events.cold_request(route.revision, status, duration_s, parse_phases(server_timing))

    def metrics_text(self) -> str:
        return metrics_text.render(self._requests, self.endpoints.values())


def find_destination(host: str, path: str, exists: Callable[[EndpointName], bool]) -> Destination | None:
    """Route by host first, by path else; None when no endpoint matches.

    Args:
        host: the Host header or :authority, with or without a port.
        path: the request target, with its query.
        exists: whether an endpoint has this name.
    """
    labels = _labels(host)
    if labels is not None:
        return _by_host(*labels, path, exists)
    return _by_path(path)


def _by_path(path: str) -> Destination | None:
    if not path.startswith(PATH_PREFIX):
        return None
    namespace, _, rest = path[len(PATH_PREFIX) :].partition("/")
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    remainder = rest[cut:] if rest[cut:].startswith("/") else "/" + rest[cut:]
    return Destination(EndpointName(namespace, rest[:cut]), None, remainder)


def _labels(host: str) -> tuple[str, str] | None:
    """`(name, namespace)` of a host below `.localhost`, None for any other host."""
    bare = host.lower().rstrip(".")
    if not bare.endswith("]"):
        bare = bare.rpartition(":")[0] or bare if bare.rpartition(":")[2].isdigit() else bare
    bare = bare.rstrip(".")
    if not bare.endswith(DOMAIN):
        return None
    name, dot, namespace = bare[: -len(DOMAIN)].partition(".")
    return (name, namespace) if dot and "." not in namespace else None


def _by_host(name: str, namespace: str, path: str, exists: Callable[[EndpointName], bool]) -> Destination | None:
    front = EndpointName(namespace, name)
    if exists(front):
        return Destination(front, None, path)
    components: tuple[Role, ...] = ("predictor", "transformer")
    for component in components:
        endpoint = EndpointName(namespace, name.removesuffix(f"-{component}"))
        if endpoint != front and exists(endpoint):
            return Destination(endpoint, component, path)
    return None
