"""The endpoints that were ordered of a running platform, one file each, so that the next one has them, too.

Must not: know what an order means. Blocking; each file is replaced as a whole.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pilotlight_local.ingress.routes import EndpointName


class KeptEndpoint(msgspec.Struct, frozen=True):
    """`spec`: what the order said it was made of."""

    namespace: str
    name: str
    generation: int
    created_s: float
    manifest: dict[str, Any]
    spec: msgspec.Raw

    @property
    def key(self) -> EndpointName:
        return EndpointName(self.namespace, self.name)


class KeptEndpoints:
    """Names are DNS labels, which the specs have checked before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> Iterator[KeptEndpoint | str]:
        """All of them by name; of a file that cannot be read, what is wrong with it."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                yield msgspec.json.decode(path.read_bytes(), type=KeptEndpoint)
            except (OSError, msgspec.MsgspecError) as error:
                yield f"the kept endpoint {path.name} cannot be read: {error}"

    def write(self, endpoint: KeptEndpoint) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(endpoint.key)
        written = path.with_suffix(".new")
        with written.open("wb") as file:
            file.write(msgspec.json.encode(endpoint))
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)

    def remove(self, name: EndpointName) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()

    def _path(self, name: EndpointName) -> Path:
        return self._folder / f"{name.namespace}.{name.name}.json"
