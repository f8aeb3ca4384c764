"""The seam below endpoints: the platform that runs them. The embedded one stands behind it; a cluster can.

No I/O is done here.
"""

from __future__ import annotations

from typing import Any, Protocol

from pilotlight_protocol.endpoint_orders import Applied, Deleted, HeldEndpoint, NotApplied


class EndpointPlatform(Protocol):
    """Every method raises Unavailable while the platform does not answer; whether an order was followed is then not
    known, and it may be given again."""

    async def held(self, namespace: str | None) -> list[HeldEndpoint]:
        """By namespace and name; None for all namespaces."""
        ...

    async def apply(
        self, namespace: str, name: str, manifest: dict[str, Any], spec: bytes, generation: int
    ) -> Applied | NotApplied:
        """In place of that generation, `NEW` for none. `spec`, JSON, is kept and told again."""
        ...

    async def delete(self, namespace: str, name: str, generation: int | None) -> Deleted | NotApplied:
        """What is not there is deleted already."""
        ...
