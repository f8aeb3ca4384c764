"""The platform's state in one place: applies InferenceServices, routes requests to revisions, ticks the autoscaler.

One task ticks for all revisions; those that are at zero and quiet are not looked at. Must not: know HTTP, files of
the state directory, or terminals (see `PlatformEvents`).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from pilotlight_local.controller import metrics_text, platform_status
from pilotlight_local.controller.live_endpoint import EndpointRoute, LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision, RevisionListener
from pilotlight_local.controller.service_addresses import ServiceAddresses
from pilotlight_local.errors import UnknownHost
from pilotlight_local.ingress.routes import Component as Role
from pilotlight_local.ingress.routes import Destination, EndpointName, find_destination
from pilotlight_local.ingress.table import Route
from pilotlight_local.pods.live_pod import LivePod, PodFailure, PodSurroundings
from pilotlight_specs import InferenceService
from pilotlight_wire.server_timing import Phase

SAMPLE_PERIOD_S = 1.0


class PlatformEvents(Protocol):
    """Who watches: the live view, or plain log lines."""

    def scaling(self, revision: LiveRevision, before: int, after: int, reasons: Sequence[str]) -> None: ...

    def pod_ready(self, revision: LiveRevision, pod: LivePod) -> None: ...

    def pod_failed(self, revision: LiveRevision, pod: LivePod, failure: PodFailure) -> None: ...

    def pod_error(self, pod: LivePod, message: str) -> None: ...

    def cold_request(self, route: Route, status: int, duration_s: float, phases: Sequence[Phase]) -> None: ...


class Controller:
    """Implements `ingress_table.EndpointTable`."""

    def __init__(
        self,
        surroundings: PodSurroundings,
        addresses: ServiceAddresses,
        events: PlatformEvents,
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._surroundings = surroundings
        self._addresses = addresses
        self._events = events
        self._rng = rng
        self._clock = clock
        self._listener = RevisionListener(
            changed=self._changed,
            demanded=self._demanded,
            pod_ready=events.pod_ready,
            pod_failed=events.pod_failed,
            pod_error=events.pod_error,
        )
        self._active: set[LiveRevision] = set()
        self._next_scale_s: dict[LiveRevision, float] = {}
        self.endpoints: dict[EndpointName, LiveEndpoint] = {}
        self.counters = metrics_text.RequestCounters()

    def apply(self, service: InferenceService) -> str:
        """Create or change one endpoint; returns `created` or `configured`."""
        name = EndpointName(service.namespace, service.name)
        endpoint = self.endpoints.get(name)
        verb = "created" if endpoint is None else "configured"
        if endpoint is None:
            endpoint = LiveEndpoint(name, self._surroundings, self._addresses, self._listener, self._rng)
            self.endpoints[name] = endpoint
        endpoint.apply(service)
        for revision in endpoint.revisions():
            self._active.add(revision)
        return verb

    async def delete(self, name: EndpointName) -> bool:
        """Remove one endpoint and end its pods; False when there is none."""
        endpoint = self.endpoints.pop(name, None)
        if endpoint is None:
            return False
        await endpoint.close()
        self._forget_gone()
        return True

    def find(self, host: str, path: str) -> Destination | None:
        return find_destination(host, path, self.endpoints.__contains__)

    def choose(self, endpoint: EndpointName, component: Role | None) -> Route:
        live = self.endpoints.get(endpoint)
        if live is None:
            raise UnknownHost(f"no endpoint {endpoint}")
        return live.choose(component)

    def record(self, route: Route, status: int, duration_s: float, phases: Sequence[Phase]) -> None:
        self.counters.add(route.revision, status)
        if isinstance(route, EndpointRoute) and route.was_cold and route.is_front:
            self._events.cold_request(route, status, duration_s, phases)

    def metrics_text(self) -> str:
        return metrics_text.render(self.counters, self.endpoints.values())

    def status(self) -> list[platform_status.ComponentStatus]:
        """What `pilotlight status` shows."""
        return [row for endpoint in self.endpoints.values() for row in platform_status.describe(endpoint)]

    def _changed(self, revision: LiveRevision) -> None:
        self._active.add(revision)
        for endpoint in self._owners(revision):
            endpoint.settle(revision.role)

    def _owners(self, revision: LiveRevision) -> list[LiveEndpoint]:
        owner = self.endpoints.get(EndpointName(revision.component.namespace, revision.component.isvc))
        return [] if owner is None else [owner]

    def _demanded(self, revision: LiveRevision) -> None:
        """A request waits: wake its revision, and the components it will need next, at once."""
        self._wake(revision)
        for endpoint in self._owners(revision):
            if revision.role == "transformer":
                self._wake(endpoint.services["predictor"].main())

    def _wake(self, revision: LiveRevision) -> None:
        self._active.add(revision)
        before = revision.desired
        revision.poke()
        self._report(revision, before)

    def _report(self, revision: LiveRevision, before: int) -> None:
        if revision.desired != before:
            reasons = revision.decision.reasons if revision.decision is not None else ()
            self._events.scaling(revision, before, revision.desired, reasons)

    async def run(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            next_s = max(next_s + SAMPLE_PERIOD_S, loop.time())
            await asyncio.sleep(next_s - loop.time())
            self.tick()

    def tick(self) -> None:
        """Sample every active revision, rescale those whose turn it is, forget the dormant ones."""
        now_s = self._clock()
        for revision in list(self._active):
            revision.sample()
            if now_s >= self._next_scale_s.get(revision, 0.0):
                self._next_scale_s[revision] = now_s + revision.component.scaling.tick_s - SAMPLE_PERIOD_S / 2
                before = revision.desired
                revision.rescale()
                self._report(revision, before)
                for endpoint in self._owners(revision):
                    endpoint.settle(revision.role)
            if revision.is_dormant:
                self._active.discard(revision)
                self._next_scale_s.pop(revision, None)
        self._forget_gone()

    def _forget_gone(self) -> None:
        live = {revision for endpoint in self.endpoints.values() for revision in endpoint.revisions()}
        self._active &= live

    async def close(self, grace_s: float) -> None:
        """End every pod; returns when none is left."""
        await asyncio.gather(*(endpoint.close(grace_s) for endpoint in self.endpoints.values()))
