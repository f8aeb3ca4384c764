"""Endpoints on demand: ordered over the control socket, applied as files are, and kept for the next platform.

What was applied by files is never changed here. Must not: know who may order what (the gateway does), or make a spec.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pilotlight_local.controller.controller import Controller
from pilotlight_local.controller.platform_status import ComponentStatus
from pilotlight_local.embedded.applying import Applier, Desired, FoundWrong, load_manifests
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.embedded.kept_endpoints import KeptEndpoint, KeptEndpoints
from pilotlight_local.embedded.obstacles import Obstacles
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_protocol.endpoint_orders import (
    NEW,
    Applied,
    ApplyOrder,
    Deleted,
    HeldEndpoint,
    HeldEndpoints,
    NotApplied,
    Refusal,
    RevisionState,
)
from pilotlight_specs.kpa import KPAConfig


@dataclass(frozen=True)
class Earlier:
    """What an earlier platform kept: what can be applied again, and what to tell of the rest, which stays kept."""

    endpoints: tuple[tuple[KeptEndpoint, Desired], ...]
    findings: tuple[str, ...]


def load_kept(kept: KeptEndpoints, config: KPAConfig, obstacles: Callable[[], Obstacles]) -> Earlier:
    """Blocking."""
    found = list(kept.read())
    endpoints, findings = [], [each for each in found if isinstance(each, str)]
    manifests = ((each, each.manifest) for each in found if isinstance(each, KeptEndpoint))
    for endpoint, desired in load_manifests(manifests, config, obstacles):
        if isinstance(desired, FoundWrong):
            findings.append(f"{endpoint.key} was ordered earlier and cannot be applied: {desired}")
        else:
            endpoints.append((endpoint, desired))
    return Earlier(tuple(endpoints), tuple(findings))


class EndpointOrders:
    """One order after the other, `apply` of files among them (the applier sees to that)."""

    def __init__(
        self,
        controller: Controller,
        applier: Applier,
        kept: KeptEndpoints,
        news: EndpointNews,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._controller = controller
        self._applier = applier
        self._kept = kept
        self._news = news
        self._wall_s = wall_s
        self._ordered: dict[EndpointName, KeptEndpoint] = {}
        applier.applied_by_files = self._taken_over

    def start_with(self, kept: Iterable[tuple[KeptEndpoint, Desired]]) -> None:
        """Apply what an earlier platform kept, but for what files have brought meanwhile."""
        for endpoint, desired in kept:
            if endpoint.key not in self._controller.names():
                self._applier.apply_desired(desired)
                self._ordered[endpoint.key] = endpoint

    async def apply(self, name: EndpointName, order: ApplyOrder) -> Applied | NotApplied:
        """Raises RefusedError when the platform is about to end, OSError when nothing can be written."""
        async with self._applier.one_at_a_time:
            known = self._ordered.get(name)
            is_there = name in self._controller.names()
            if order.generation != (known.generation if known is not None else NEW) or is_there != (known is not None):
                return NotApplied()
            desired = await asyncio.to_thread(self._applier.load_one, order.manifest)
            if isinstance(desired, FoundWrong):
                return NotApplied(tuple(Refusal(finding.path, finding.reason) for finding in desired.errors))
            if [(service.namespace, service.name) for service in desired.services] != [(name.namespace, name.name)]:
                return NotApplied((Refusal("metadata.name", f"must be {name}"),))
            endpoint = KeptEndpoint(
                name.namespace,
                name.name,
                order.generation + 1,
                self._wall_s() if known is None else known.created_s,
                order.manifest,
                order.spec,
            )
            await asyncio.to_thread(self._kept.write, endpoint)
            # From here on it is an order's, whatever becomes of its first pods.
            self._ordered[name] = endpoint
            self._applier.apply_desired(desired)
            return Applied(endpoint.generation, self._news.place)

    async def delete(self, name: EndpointName, generation: int | None) -> Deleted | NotApplied:
        """Of one that was ordered; `generation` None: whatever it is."""
        async with self._applier.one_at_a_time:
            known = self._ordered.get(name)
            if known is None:
                is_there = name in self._controller.names()
                return NotApplied() if is_there else Deleted(deleted=False, place=self._news.place)
            if generation not in (None, known.generation):
                return NotApplied()
            await self.forget(name)
            # Its pods end by themselves; nobody finds it from now on.
            running = await self._controller.delete(name, patience_s=0.0)
            return Deleted(deleted=True, place=self._news.place, running=running or 0)

    async def forget(self, name: EndpointName) -> None:
        """The next platform does not have it."""
        if self._ordered.pop(name, None) is not None:
            await asyncio.to_thread(self._kept.remove, name)

    def _taken_over(self, names: Iterable[EndpointName]) -> None:
        """Files say now what they are."""
        for name in names:
            if self._ordered.pop(name, None) is not None:
                self._kept.remove(name)

    def held(self, namespace: str | None) -> HeldEndpoints:
        rows: dict[EndpointName, list[RevisionState]] = {name: [] for name in self._controller.names()}
        for row in self._controller.status():
            rows[EndpointName(row.namespace, row.endpoint)].append(_state(row))
        return HeldEndpoints(
            tuple(
                self._held(name, tuple(states))
                for name, states in sorted(rows.items(), key=lambda row: str(row[0]))
                if namespace in (None, name.namespace)
            )
        )

    def _held(self, name: EndpointName, states: tuple[RevisionState, ...]) -> HeldEndpoint:
        ordered = self._ordered.get(name)
        if ordered is None:
            return HeldEndpoint(name.namespace, name.name, states)
        return HeldEndpoint(name.namespace, name.name, states, ordered.generation, ordered.created_s, ordered.spec)


def _state(row: ComponentStatus) -> RevisionState:
    return RevisionState(
        row.component, row.revision, row.phase, row.ready, row.desired, row.running, row.queued, row.reason
    )
