"""From files and orders to running endpoints: read, resolve, refuse as a whole when anything is wrong, else apply.

Must not: decide what a field means (see `resources`), or print.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pilotlight_specs
from pilotlight_local.controller.controller import Controller
from pilotlight_local.embedded.endpoint_entries import Meaning
from pilotlight_local.embedded.endpoint_publisher import EndpointPublisher
from pilotlight_local.embedded.obstacles import Obstacles
from pilotlight_local.embedded.warm_pool import WarmPool
from pilotlight_local.errors import RefusedError
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_local.pods import pod_command
from pilotlight_specs.kpa import KPAConfig

ORDERED = "order"
"""The source that the findings of an order name, instead of a file."""
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Desired:
    """What can be applied, what a person should know about it, and what the components' arguments mean."""

    services: tuple[pilotlight_specs.InferenceService, ...]
    findings: tuple[str, ...]
    means: Mapping[pilotlight_specs.Component, Meaning]


@dataclass(frozen=True)
class FoundWrong:
    """Why a manifest is not applied."""

    errors: tuple[pilotlight_specs.Finding, ...]

    def __str__(self) -> str:
        return "; ".join(f"{finding.path}: {finding.reason}" for finding in self.errors)


@dataclass(frozen=True)
class Applied:
    """What an apply did: `(namespace/name, created|configured)` and findings."""

    applied: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]


def load(paths: Sequence[Path], config: KPAConfig, obstacles: Callable[[], Obstacles]) -> Desired:
    """Read and resolve files and directories, or nothing where there are none. Raises RefusedError with every error
    found."""
    missing = [f"{path}: no such file or directory" for path in paths if not path.exists()]
    if missing:
        raise RefusedError(missing)
    documents, problems = pilotlight_specs.read_documents(paths)
    with obstacles() as check:
        desired = pilotlight_specs.resolve(documents, config, check)
    findings = (*problems, *desired.findings)
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        raise RefusedError(errors)
    if paths and not desired.services:
        names = ", ".join(path.name for path in paths)
        raise RefusedError(
            [f"no InferenceService in {names}; a runtime is read together with the endpoints that use it"]
        )
    return Desired(desired.services, pilotlight_specs.summarize(findings), check.means)


def load_manifests(
    manifests: Iterable[tuple[_Key, dict[str, Any]]], config: KPAConfig, obstacles: Callable[[], Obstacles]
) -> Iterator[tuple[_Key, Desired | FoundWrong]]:
    """Resolve each by itself: one that is wrong is in no other's way."""
    with obstacles() as check:
        for key, manifest in manifests:
            desired = pilotlight_specs.resolve([pilotlight_specs.Document(ORDERED, manifest)], config, check)
            if desired.errors:
                yield key, FoundWrong(desired.errors)
            else:
                yield key, Desired(desired.services, pilotlight_specs.summarize(desired.findings), check.means)


class Applier:
    """Applies to the running platform, one apply at a time (`one_at_a_time`: for who orders otherwise).
    `applied_by_files` is told which endpoints files have brought."""

    def __init__(
        self,
        controller: Controller,
        config: KPAConfig,
        obstacles: Callable[[], Obstacles],
        pool: WarmPool | None,
        publisher: EndpointPublisher,
    ) -> None:
        self._controller = controller
        self._config = config
        self._obstacles = obstacles
        self._pool = pool
        self._publisher = publisher
        self.one_at_a_time = asyncio.Lock()
        self.applied_by_files: Callable[[list[EndpointName]], None] = lambda names: None

    async def apply(self, paths: Sequence[Path]) -> Applied:
        """Read off the event loop, apply on it. Raises RefusedError; nothing is changed then."""
        async with self.one_at_a_time:
            desired = await asyncio.to_thread(load, paths, self._config, self._obstacles)
            applied = self.apply_desired(desired)
            self.applied_by_files([EndpointName(service.namespace, service.name) for service in desired.services])
            return applied

    def load_one(self, manifest: dict[str, Any]) -> Desired | FoundWrong:
        """Blocking."""
        ((_, desired),) = load_manifests([(None, manifest)], self._config, self._obstacles)
        return desired

    def apply_desired(self, desired: Desired) -> Applied:
        """Apply what was loaded before; the first endpoint that leases engines starts the pool."""
        self._publisher.expect(EndpointName(service.namespace, service.name) for service in desired.services)
        for service in desired.services:
            means = {each: desired.means[each] for each in service.components if each in desired.means}
            self._publisher.learn(EndpointName(service.namespace, service.name), means)
        applied = tuple(
            (f"{service.namespace}/{service.name}", self._controller.apply(service)) for service in desired.services
        )
        components = (component for service in desired.services for component in service.components)
        if self._pool is not None and any(map(pod_command.leases_engines, components)):
            self._pool.start()
        return Applied(applied, desired.findings)
