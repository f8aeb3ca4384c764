"""Headers of the next hop that mean the same on every hop: what passes on, what passes back, what an answer took. Pure.

How a server writes its own stands in `http_exchange`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilotlight_protocol.answer_record import RESUME, TELL

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_FORWARDED = frozenset({TRACEPARENT, TRACESTATE})
_TRACEPARENT = re.compile(
    r"(?!ff)(?:00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?)"
).fullmatch
"""W3C Trace Context, 3.2: of a later version what this one knows, whatever follows; no id is all zeros."""
OWN_PREFIX = "x-pilotlight-"
REQUEST_ID = "x-request-id"
ELSEWHERE = "x-pilotlight-elsewhere"
"""On a request: its sender would take it to another pod. On a 503: another pod can answer it now, this one cannot."""
TENANT = "x-pilotlight-tenant"
"""Whose request it is. A gateway says so, and takes no client's word for it."""

OUTPUT_TOKENS = "x-pilotlight-output-tokens"
"""How many tokens at the prompt's end another process generated: the request is the rest of a broken one."""

HISTORY = "x-pilotlight-history"
"""On a request for a response: its sender keeps responses. So many bytes of the body are the request's, the others the
items of what it continues."""

TIMEOUT_HEADER = "x-request-timeout"
"""On a request: seconds that its sender waits for the answer to begin (`request_time`)."""
LONGEST_WAIT_S = 999_999.0
_LEAST_WAIT_S = 0.001
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")

HOP_ONLY = frozenset({TENANT, ELSEWHERE, OUTPUT_TOKENS, TELL, RESUME, HISTORY})
"""What only hops behind a gateway say; a client's is none."""


def of_client(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a client's request's headers (lower-case names) those that are its own and go further: no hop's, and none that
    it names in `Connection`. Done before a gateway says anything itself, of which nobody can name anything away."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    return {name: value for name, value in headers.items() if name not in HOP_ONLY and name not in named}


def waits_s(headers: Mapping[str, str]) -> float | None:
    """How long its sender waits; None where nothing is said, or nothing that can be read."""
    said = headers.get(TIMEOUT_HEADER)
    return None if said is None or not _SECONDS.fullmatch(said) else float(said)


def told_seconds(seconds: float) -> str:
    """What is left of that, as `TIMEOUT_HEADER` says it."""
    return f"{min(LONGEST_WAIT_S, max(_LEAST_WAIT_S, seconds)):.3f}"


def output_tokens_of(headers: Mapping[str, str]) -> int:
    """0 where there are none, or no number of them."""
    told = headers.get(OUTPUT_TOKENS, "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a request's headers (lower-case names) those that pass through every hop (docs: errors and headers)."""
    return {
        name: value
        for name, value in headers.items()
        if (name in _FORWARDED or name.startswith(OWN_PREFIX)) and name != HISTORY and value.isprintable()
    }


def trace_id(headers: Mapping[str, str]) -> str:
    """Of a request's `traceparent` (W3C Trace Context), "" where there is none."""
    given = headers.get(TRACEPARENT)
    if given is None:
        return ""
    parsed = _TRACEPARENT(given)
    return "" if parsed is None else parsed[1] or parsed[2]


def traced(headers: dict[str, str], random_bits: Callable[[int], int]) -> None:
    """Let a request have a trace: its own, or a new one where it has none that can be read; then no `tracestate`, which
    would be another one's. `random_bits`: so many of them, as `random.getrandbits`."""
    if not trace_id(headers):
        headers.pop(TRACESTATE, None)
        headers[TRACEPARENT] = f"00-{random_bits(128) or 1:032x}-{random_bits(64) or 1:016x}-00"


def passed_back(headers: Mapping[str, str]) -> dict[str, str]:
    """Of an answer's headers (lower-case names) those that pass back to the client."""
    return {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)}


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; a date or nonsense is None."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Phase:
    """One timed phase of a request, as `Server-Timing` has it (W3C Server Timing)."""

    name: str
    duration_ms: float
    description: str = ""


def parse_phases(header: str) -> list[Phase]:
    """Every phase with a duration, in the order of the header; what cannot be read is left out."""
    phases = []
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        values = dict(part.split("=", 1) for part in parameters if "=" in part)
        try:
            duration_ms = float(values["dur"].strip('"'))
        except (KeyError, ValueError):
            continue
        if name:
            phases.append(Phase(name, duration_ms, values.get("desc", "").strip('"')))
    return phases


def parse_server_timing(header: str) -> dict[str, float]:
    """`queue;dur=1.5, activate;dur=20;desc="p"` to {"queue": 1.5, 'activate;desc="p"': 20.0}; no duration, no entry.

    The description stays with the name: each hop has an `activate` of its own.
    """
    if not header:
        return {}
    return {
        f'{phase.name};desc="{phase.description}"' if phase.description else phase.name: phase.duration_ms
        for phase in parse_phases(header)
    }
