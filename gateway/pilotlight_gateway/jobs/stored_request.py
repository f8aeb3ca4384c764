"""A request as it is kept to be run later: where it was sent and what it said, and no credential. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from pilotlight_gateway.request_steps import Place
from pilotlight_protocol.request_priority import PRIORITY_HEADER
from pilotlight_wire.handlers import RequestContext

KEPT_HEADERS = frozenset(
    ("content-type", "accept", "inference-header-content-length", "anthropic-version", "anthropic-beta")
    + ("x-model-version", "x-session-id", "traceparent", PRIORITY_HEADER)
)
"""Only what is known to be none: a header of a name that we do not know may be a password."""
CREDENTIALS = frozenset(
    ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "x-amz-security-token")
)
"""Not kept, whatever a rule says."""


class StoredRequest(msgspec.Struct, frozen=True):
    """Without its query, which may hold a key."""

    method: str
    target: str
    path: str
    component_path: str
    route: str
    model: str | None
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, place: Place, context: RequestContext, routed_by: Collection[str] = ()) -> StoredRequest:
        """`routed_by`: headers that rules look at, so that it runs where it would have run now."""
        kept = kept_headers(context.headers, routed_by)
        return cls(
            place.method, place.path, place.path, place.component_path, place.route, place.model, kept, context.body
        )

    @property
    def place(self) -> Place:
        return Place(self.method, self.target, self.path, self.component_path, self.route, self.model)


def kept_headers(headers: Mapping[str, str], routed_by: Collection[str] = ()) -> dict[str, str]:
    kept = KEPT_HEADERS.union(routed_by) - CREDENTIALS
    return {name: value for name, value in headers.items() if name in kept}
