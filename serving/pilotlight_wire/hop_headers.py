"""Headers that pass through every hop, both ways. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_FORWARDED = frozenset({"traceparent", "tracestate"})
OWN_PREFIX = "x-pilotlight-"
REQUEST_ID = "x-request-id"
ELSEWHERE = "x-pilotlight-elsewhere"
"""On a request: its sender would take it to another pod. On a 503: another pod can answer it now, this one cannot."""


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a request's headers (lower-case names) those that pass through every hop (docs: errors and headers)."""
    return {
        name: value
        for name, value in headers.items()
        if (name in _FORWARDED or name.startswith(OWN_PREFIX)) and value.isprintable()
    }


def passed_back(headers: Mapping[str, str]) -> dict[str, str]:
    """Of an answer's headers (lower-case names) those that pass back to the client."""
    return {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)}


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; a date or nonsense is None."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
