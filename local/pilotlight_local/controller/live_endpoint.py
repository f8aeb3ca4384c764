"""One InferenceService at run time: its components by role, and what has left it but is not gone. Must not: know HTTP,
or choose a revision for a request (see `routing_table`)."""

import asyncio
from collections.abc import Callable

from pilotlight_local.controller.live_revision import LiveRevision
from pilotlight_local.controller.live_service import LiveService, NewRevision
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_specs import InferenceService
from pilotlight_specs.desired import Role


class LiveEndpoint:
    """`reconcile` brings it in step with the spec that `apply` brought; it may be called at any time."""

    def __init__(self, name: EndpointName, new_revision: NewRevision, tell: Callable[[str], None]) -> None:
        self.name = name
        self.services: dict[Role, LiveService] = {}
        self.entry: Role = "predictor"
        """The component that clients reach."""
        self._new_revision = new_revision
        self._tell = tell
        self._leaving: list[LiveRevision] = []

    def apply(self, service: InferenceService) -> None:
        """Take a new spec of the whole endpoint."""
        for component in service.components:
            if component.role in self.services:
                self.services[component.role].component = component
            else:
                self.services[component.role] = LiveService(component, self._new_revision, self._tell)
        if service.transformer is None and "transformer" in self.services:
            self._leave(list(self.services.pop("transformer").live.values()))
        self.entry = "transformer" if "transformer" in self.services else "predictor"

    def sample(self) -> None:
        """Measure the last second; see `LiveRevision.sample`."""
        for revision in self.revisions():
            revision.sample()

    def reconcile(self) -> None:
        """The entry first: the predictor is needed when a request waits for the transformer, so that both wake-ups
        overlap."""
        is_needed = False
        for role in sorted(self.services, key=lambda role: role != self.entry):
            self._leave(self.services[role].reconcile(is_needed))
            is_needed = self.services[role].has_waiting
        for revision in self._leaving:
            revision.observe()
        self._leaving = [revision for revision in self._leaving if revision.pods]

    def _leave(self, revisions: list[LiveRevision]) -> None:
        for revision in revisions:
            revision.stop(None)
        self._leaving += revisions

    @property
    def is_dormant(self) -> bool:
        """Nothing can change before the next request or order."""
        return not self._leaving and all(revision.is_dormant for revision in self.revisions())

    def revisions(self) -> list[LiveRevision]:
        """Every revision of every component."""
        return [revision for service in self.services.values() for revision in service.live.values()]

    @property
    def running(self) -> int:
        """Requests that pods still work on."""
        return sum(revision.activator.running for revision in (*self.revisions(), *self._leaving))

    async def close(self, grace_s: float | None = None, idle_grace_s: float | None = None) -> None:
        """End all pods; returns when none is left."""
        revisions = (*self.revisions(), *self._leaving)
        for revision in revisions:
            revision.stop(grace_s, idle_grace_s)
        await asyncio.gather(*(revision.wait_gone() for revision in revisions))
