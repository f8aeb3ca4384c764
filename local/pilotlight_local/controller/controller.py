"""Brings endpoints in step with what was applied: one queue of endpoints that may have work, one loop that works on it.

Whatever changes (a pod, a request that waits, the clock) puts the endpoint's name into the queue and says no more; the
loop looks at the whole endpoint and asks the policies, so a change that is told twice, late or together with others
leads to the same. Must not: know HTTP, files of the state directory, or terminals (see `PlatformEvents`).
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

from pilotlight_local.activator.activator import Activator
from pilotlight_local.controller import platform_status
from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision, RevisionEvents
from pilotlight_local.controller.routing_table import RoutingTable
from pilotlight_local.controller.service_addresses import ServiceAddresses
from pilotlight_local.controller.work_queue import WorkQueue
from pilotlight_local.errors import RefusedError
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_local.pods.live_pod import LivePod
from pilotlight_specs import Component, InferenceService

SAMPLE_PERIOD_S = 1.0
# A pod without requests that does not end on SIGTERM is killed so long after its endpoint was deleted.
DELETE_GRACE_S = 10.0

StartPod = Callable[[str, str, Component, str | None, Callable[[], None]], LivePod]
"""Starts a pod: its name, its revision's, what it runs, the predictor's address, what to call when it has changed."""


class PlatformEvents(RevisionEvents, Protocol):
    """Who watches: the live view, or plain log lines."""

    def line(self, text: str) -> None: ...


class Controller:
    """`apply` and `delete` are orders; `run` works until it is cancelled; `close` ends every pod. `changed` is called
    with an endpoint that may look otherwise now."""

    def __init__(
        self,
        table: RoutingTable,
        addresses: ServiceAddresses,
        start_pod: StartPod,
        events: PlatformEvents,
        rng: Random,
        changed: Callable[[EndpointName], None] = lambda name: None,
    ) -> None:
        self._table = table
        self._addresses = addresses
        self._start_pod = start_pod
        self._events = events
        self._rng = rng
        self._changed = changed
        self._queue: WorkQueue[EndpointName] = WorkQueue()
        self._active: set[EndpointName] = set()
        self._broken: dict[tuple[EndpointName, str], str] = {}
        self._leaving: dict[asyncio.Task[None], LiveEndpoint] = {}
        self._is_closing = False

    def apply(self, service: InferenceService) -> str:
        """Create or change one endpoint, which takes requests from now on; returns `created` or `configured`. Raises
        RefusedError when the platform is about to end."""
        if self._is_closing:
            raise RefusedError(["the platform is ending; start another one with `pilotlight up`"])
        name = EndpointName(service.namespace, service.name)
        endpoint = self._table.endpoints.get(name)
        verb = "created" if endpoint is None else "configured"
        if endpoint is None:
            endpoint = LiveEndpoint(
                name, lambda revision, component: self._new_revision(name, revision, component), self._events.line
            )
            self._table.endpoints[name] = endpoint
        endpoint.apply(service)
        self._active.add(name)
        endpoint.reconcile()
        self._changed(name)
        return verb

    def _new_revision(self, endpoint: EndpointName, name: str, component: Component) -> LiveRevision:
        def changed() -> None:
            self._queue.add(endpoint)

        def start_pod(pod: str, revision: str, component: Component) -> LivePod:
            is_caller = component.role == "transformer"
            address = self._addresses.address(endpoint, "predictor") if is_caller else None
            return self._start_pod(pod, revision, component, address, changed)

        activator = Activator(name, component.container_concurrency, self._rng, changed)
        return LiveRevision(name, component, activator, start_pod, self._events)

    async def delete(self, name: EndpointName, patience_s: float) -> int | None:
        """Remove one endpoint and end its pods: who waits is refused, requests that run have the grace period of the
        spec, a pod without any has `DELETE_GRACE_S`. Returns after `patience_s` at the latest, with the number of
        requests that still run; None when there is no such endpoint."""
        endpoint = self._table.endpoints.pop(name, None)
        if endpoint is None:
            return None
        self._changed(name)
        ending = asyncio.create_task(self._end(endpoint), name=f"end of {name}")
        self._leaving[ending] = endpoint
        ending.add_done_callback(self._leaving.pop)
        done, _ = await asyncio.wait({ending}, timeout=patience_s)
        return 0 if done else endpoint.running

    async def _end(self, endpoint: LiveEndpoint) -> None:
        await endpoint.close(idle_grace_s=DELETE_GRACE_S)
        if endpoint.name not in self._table.endpoints:
            await self._addresses.close(endpoint.name)

    def names(self) -> list[EndpointName]:
        """Of the endpoints that take requests."""
        return list(self._table.endpoints)

    def status(self) -> list[platform_status.ComponentStatus]:
        """What `pilotlight status` shows."""
        return [row for endpoint in self._table.endpoints.values() for row in platform_status.describe(endpoint)]

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick(), name="autoscaler ticks")
            while True:
                self._work_on(await self._queue.get())

    async def _tick(self) -> None:
        """Every second, measure the endpoints that are not dormant, and look at them again."""
        now_s = asyncio.get_running_loop().time
        next_s = now_s()
        while True:
            next_s = max(next_s + SAMPLE_PERIOD_S, now_s())
            await asyncio.sleep(next_s - now_s())
            for name in list(self._active):
                if (endpoint := self._table.endpoints.get(name)) is not None:
                    self._attempt(name, "measured", endpoint.sample)
                self._queue.add(name)

    def _work_on(self, name: EndpointName) -> None:
        endpoint = self._table.endpoints.get(name)
        self._active.add(name)
        if endpoint is not None:
            self._attempt(name, "brought in step with its spec", endpoint.reconcile)
            self._changed(name)
        if endpoint is None or endpoint.is_dormant:
            self._active.discard(name)

    def _attempt(self, name: EndpointName, what: str, work: Callable[[], None]) -> None:
        """One endpoint's trouble is not another's: it is told once, and tried again with the next tick."""
        try:
            work()
            self._broken.pop((name, what), None)
        except Exception as error:
            if self._broken.get((name, what)) != repr(error):
                self._broken[name, what] = repr(error)
                self._events.line(f"{name}: cannot be {what}: {error!r}; it is tried again")

    async def close(self, grace_s: float) -> None:
        """End every pod; returns when none is left. `run` has ended before."""
        self._is_closing = True
        endpoints = (*self._table.endpoints.values(), *self._leaving.values())
        await asyncio.gather(*(endpoint.close(grace_s) for endpoint in endpoints), *self._leaving)
        for endpoint in endpoints:
            await self._addresses.close(endpoint.name)
