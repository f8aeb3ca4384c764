"""A request as it is kept to be run later: where it was sent and what it said, and no credential. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

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
    """`place`: without its query, which may hold a key."""

    place: Place
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, place: Place, context: RequestContext, routed_by: Collection[str] = ()) -> StoredRequest:
        """`routed_by`: headers that rules look at, so that it runs where it would have run now."""
        return cls(replace(place, target=place.path), kept_headers(context.headers, routed_by), context.body)


def kept_headers(headers: Mapping[str, str], routed_by: Collection[str] = ()) -> dict[str, str]:
    kept = KEPT_HEADERS.union(routed_by) - CREDENTIALS
    return {name: value for name, value in headers.items() if name in kept}
