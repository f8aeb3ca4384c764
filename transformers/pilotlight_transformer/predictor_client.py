"""What the routes know of the predictor: tokens in, token events out, whatever the wire.

Responsible for the seam, the headers that pass through it, and the address it leads to. No I/O is done here; the wires
are rest_predictor.py and grpc_predictor.py, and a test's fake.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pilotlight_protocol.generation import GenerationParameters, TokenEvent

_FORWARDED = frozenset({"traceparent", "tracestate"})
_FORWARDED_PREFIX = "x-pilotlight-"
REQUEST_ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One prompt. `input_ids`: int[seq]; `headers` pass through; `parameters.stop` is empty (the transformer's own)."""

    model_name: str
    request_id: str
    input_ids: list[int]
    parameters: GenerationParameters
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What the head of an answer carries: phases in ms (Server-Timing) and headers that pass back to the client."""

    server_timing: Mapping[str, float] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class TokenStream(Protocol):
    """An answer under way. Close it in `finally`: closing one that has not ended aborts the generation."""

    facts: AnswerFacts

    async def events(self) -> list[TokenEvent]:
        """All events that have come since the last call, at least one; an empty list at the end.

        Raises the PilotlightError the predictor answered with, Unavailable (connection lost), DeadlineExceeded.
        """
        ...

    def close(self) -> None: ...


class PredictorClient(Protocol):
    """Raises the PilotlightError the predictor answered with, Unavailable (no connection), DeadlineExceeded."""

    async def stream(self, request: TokenRequest) -> TokenStream:
        """Returns when the answer has started. Cancelling it aborts the generation."""
        ...

    async def generate(self, request: TokenRequest) -> tuple[list[TokenEvent], AnswerFacts]:
        """The whole answer, one event per choice, in their order. Cancelling it aborts the generation."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PredictorAddress:
    """`host` is connected to; `authority` is what the Host header says, by which Knative routes."""

    host: str
    port: int
    authority: str
    use_tls: bool = False


def predictor_address(predictor_host: str, *, use_tls: bool) -> PredictorAddress:
    """Read KServe's `--predictor_host HOST[:PORT]`; a `http://` or `https://` in front is tolerated.

    Names under `.localhost` are the loopback address (RFC 6761), which not every resolver knows. Raises ValueError.
    """
    scheme, separator, rest = predictor_host.rpartition("://")
    if separator:
        use_tls = scheme == "https"
    authority = rest.rstrip("/")
    host, _, port = authority.rpartition(":")
    if not host or (authority.startswith("[") and authority.endswith("]")):
        host, port = authority, ""
    host = host.strip("[]")
    if not host or "/" in host or (":" in host and not _is_ip(host)):
        raise ValueError(f"--predictor_host must be HOST or HOST:PORT, not '{predictor_host}'")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--predictor_host has a bad port: '{predictor_host}'")
    local = host == "localhost" or host.endswith(".localhost")
    return PredictorAddress(
        host="127.0.0.1" if local else host,
        port=int(port) if port else (443 if use_tls else 80),
        authority=authority,
        use_tls=use_tls,
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Of a request's headers (lower-case names) those that pass through every hop (docs: errors and headers)."""
    return {
        name: value
        for name, value in headers.items()
        if (name in _FORWARDED or name.startswith(_FORWARDED_PREFIX)) and value.isprintable()
    }


def client_param(param: str | None) -> str | None:
    """The parameter that the predictor refused, where the client knows it too (it has sent no `input_ids`)."""
    return param if param in GenerationParameters.__struct_fields__ else None


def answer_facts(headers: Mapping[str, str]) -> AnswerFacts:
    """Of an answer's headers (lower-case names) the phases and what passes back."""
    return AnswerFacts(
        parse_server_timing(headers.get("server-timing", "")),
        {name: value for name, value in headers.items() if name.startswith(_FORWARDED_PREFIX)},
    )


def parse_server_timing(value: str) -> dict[str, float]:
    """`queue;dur=1.5, activate;dur=20;desc="p"` to {"queue": 1.5, 'activate;desc="p"': 20.0}; no duration, no entry.

    The description stays with the name: each hop has an `activate` of its own.
    """
    phases: dict[str, float] = {}
    for entry in value.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        duration_ms = None
        for parameter in parameters:
            key, _, text = parameter.partition("=")
            if key == "desc":
                name = f"{name};{parameter}"
            elif key == "dur":
                with contextlib.suppress(ValueError):
                    duration_ms = float(text.strip('"'))
        if name and duration_ms is not None:
            phases[name] = duration_ms
    return phases


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header; a date or nonsense is None."""
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
