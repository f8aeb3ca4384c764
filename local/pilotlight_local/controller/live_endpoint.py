"""One InferenceService at run time: its components and the route of one request through them. Must not: know HTTP."""

import asyncio
import time
from collections.abc import Iterator
from random import Random

from pilotlight_local.activator.activator import Activator, Backend
from pilotlight_local.controller.live_revision import LiveRevision, RevisionListener
from pilotlight_local.controller.live_service import LiveService
from pilotlight_local.controller.service_addresses import ServiceAddresses
from pilotlight_local.errors import UnknownHost
from pilotlight_local.ingress.routes import Component as Role
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_local.pods.live_pod import PodSurroundings
from pilotlight_specs import InferenceService


class EndpointRoute:
    """Implements `ingress_table.Route`: one revision of one component, for one request."""

    def __init__(self, endpoint: "LiveEndpoint", revision: LiveRevision, is_front: bool) -> None:
        self._endpoint = endpoint
        self._revision = revision
        self.is_front = is_front
        self.was_cold = self.is_cold()

    @property
    def endpoint(self) -> EndpointName:
        return self._endpoint.name

    @property
    def revision(self) -> str:
        return self._revision.name

    @property
    def component(self) -> Role:
        return self._revision.role

    @property
    def timeout_s(self) -> float:
        return self._revision.timeout_s

    @property
    def activator(self) -> Activator:
        return self._revision.activator

    async def acquire(self, deadline_s: float) -> Backend:
        return await self._revision.acquire(deadline_s)

    def suspect(self, backend: Backend) -> None:
        self._revision.suspect(backend)

    def is_cold(self) -> bool:
        return any(not revision.ready_pods for revision in self._path())

    def progress(self) -> tuple[str, float | None]:
        for revision in self._path():
            if not revision.ready_pods:
                return f"{revision.role}-{_phase(revision)}", _eta_s(revision)
        return "answering", None

    def _path(self) -> Iterator[LiveRevision]:
        yield self._revision
        if self._revision.role == "transformer":
            yield self._endpoint.services["predictor"].main()


def _phase(revision: LiveRevision) -> str:
    if not revision.pods:
        return "scheduling"
    pod = revision.pods[-1]
    if pod.phase == "Mounting":
        return "mounting"
    return "starting" if pod.phase == "Starting" else pod.phase.lower()


def _eta_s(revision: LiveRevision) -> float | None:
    if revision.boots.last_boot_s is None:
        return None
    passed_s = 0.0 if revision.boots.started_s is None else time.monotonic() - revision.boots.started_s
    return max(0.0, revision.boots.last_boot_s - passed_s)


class LiveEndpoint:
    """The components of one InferenceService by role."""

    def __init__(
        self,
        name: EndpointName,
        surroundings: PodSurroundings,
        addresses: ServiceAddresses,
        listener: RevisionListener,
        rng: Random,
    ) -> None:
        self.name = name
        self.services: dict[Role, LiveService] = {}
        self._surroundings = surroundings
        self._addresses = addresses
        self._listener = listener
        self._rng = rng
        self._removals: set[asyncio.Task[None]] = set()

    @property
    def front(self) -> Role:
        """The component that clients reach."""
        return "transformer" if "transformer" in self.services else "predictor"

    def apply(self, service: InferenceService) -> None:
        """Take a new spec of the whole endpoint."""
        for component in service.components:
            if component.role not in self.services:
                self.services[component.role] = LiveService(
                    self._surroundings,
                    self._predictor_address if component.role == "transformer" else None,
                    self._listener,
                    self._rng,
                )
            self.services[component.role].apply(component)
        if service.transformer is None and "transformer" in self.services:
            removal = asyncio.create_task(self.services.pop("transformer").close())
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def _predictor_address(self) -> str:
        return self._addresses.address(self.name, "predictor")

    def settle(self, role: Role) -> None:
        """Health of a component changed: its traffic may move."""
        if role in self.services:
            self.services[role].settle()

    def choose(self, component: Role | None) -> EndpointRoute:
        """A route for one request; None means the front. Raises UnknownHost when there is no such component."""
        service = self.services.get(component or self.front)
        if service is None:
            raise UnknownHost(f"{self.name} has no {component}")
        return EndpointRoute(self, service.choose(), component is None)

    def revisions(self) -> list[LiveRevision]:
        """Every revision of every component."""
        return [revision for service in self.services.values() for revision in service.live.values()]

    async def close(self, grace_s: float | None = None) -> None:
        """End all pods and listeners."""
        await asyncio.gather(*(service.close(grace_s) for service in self.services.values()), *self._removals)
        await self._addresses.close(self.name)
