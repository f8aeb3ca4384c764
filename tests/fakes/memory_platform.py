"""A platform of endpoints in memory: what was ordered is there at once, and told to a table as its news."""

from __future__ import annotations

from typing import Any

import msgspec
from endpoint_entries import entry

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_protocol.endpoint_directory import DirectoryAnswer
from pilotlight_protocol.endpoint_orders import (
    NEW,
    Applied,
    Deleted,
    HeldEndpoint,
    NewsPlace,
    NotApplied,
    Refusal,
)

EPOCH = "e1"


class MemoryPlatform:
    """Implements EndpointPlatform. `refuses`: what it finds wrong with every order. `models`: what an endpoint's
    components call its models, its name alone without."""

    def __init__(self, table: EndpointTable) -> None:
        self.endpoints: dict[tuple[str, str], HeldEndpoint] = {}
        self.manifests: list[dict[str, Any]] = []
        self.refuses: tuple[Refusal, ...] = ()
        self.models: dict[tuple[str, str], tuple[str, ...]] = {}
        self._table = table
        self._version = 0
        self._tell()

    def by_file(self, namespace: str, name: str) -> None:
        self.endpoints[namespace, name] = HeldEndpoint(namespace, name)
        self._tell()

    async def held(self, namespace: str | None) -> list[HeldEndpoint]:
        return [held for key, held in sorted(self.endpoints.items()) if namespace in (None, key[0])]

    async def apply(
        self, namespace: str, name: str, manifest: dict[str, Any], spec: bytes, generation: int
    ) -> Applied | NotApplied:
        known = self.endpoints.get((namespace, name))
        if (known.generation if known is not None else NEW) != generation:
            return NotApplied()
        if self.refuses:
            return NotApplied(self.refuses)
        self.manifests.append(manifest)
        made = HeldEndpoint(namespace, name, (), generation + 1, 1.0, msgspec.Raw(spec))
        self.endpoints[namespace, name] = made
        self._tell()
        return Applied(generation + 1, NewsPlace(EPOCH, self._version))

    async def delete(self, namespace: str, name: str, generation: int | None) -> Deleted | NotApplied:
        known = self.endpoints.get((namespace, name))
        if known is not None and (known.generation is None or generation not in (None, known.generation)):
            return NotApplied()
        self.endpoints.pop((namespace, name), None)
        self._tell()
        return Deleted(known is not None, NewsPlace(EPOCH, self._version))

    def _tell(self) -> None:
        self._version += 1
        entries = tuple(
            entry(name, namespace, model_names=self.models.get((namespace, name), (name,)))
            for namespace, name in self.endpoints
        )
        self._table.apply(DirectoryAnswer(EPOCH, self._version, whole=True, changed=entries))
