"""A request as it is kept to be run later: where it was sent and what it said, and no credential. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pilotlight_gateway.request_steps import Place
from pilotlight_protocol.request_priority import PRIORITY_HEADER
from pilotlight_wire.handlers import RequestContext

KEPT_HEADERS = frozenset(
    ("content-type", "accept", "inference-header-content-length", "anthropic-version", "anthropic-beta")
    + ("x-model-version", "x-session-id", "traceparent", PRIORITY_HEADER)
)
"""Only what is known to be none: a header of a name that we do not know may be a password."""


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
    def of(cls, place: Place, context: RequestContext) -> StoredRequest:
        kept = kept_headers(context.headers)
        return cls(
            place.method, place.path, place.path, place.component_path, place.route, place.model, kept, context.body
        )

    @property
    def place(self) -> Place:
        return Place(self.method, self.target, self.path, self.component_path, self.route, self.model)


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in KEPT_HEADERS}
