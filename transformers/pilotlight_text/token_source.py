"""What routes know of where tokens come from: tokens in, token events out, whatever the wire.

No I/O is done here; the sources are a remote predictor (REST or gRPC), and a test's fake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pilotlight_protocol.generation import GenerationParameters, TokenEvent
from pilotlight_wire.hop_headers import OWN_PREFIX
from pilotlight_wire.server_timing import parse_server_timing


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


def client_param(param: str | None) -> str | None:
    """The parameter that the predictor refused, where the client knows it too (it has sent no `input_ids`)."""
    return param if param in GenerationParameters.__struct_fields__ else None


def answer_facts(headers: Mapping[str, str]) -> AnswerFacts:
    """Of an answer's headers (lower-case names) the phases and what passes back."""
    return AnswerFacts(
        parse_server_timing(headers.get("server-timing", "")),
        {name: value for name, value in headers.items() if name.startswith(OWN_PREFIX)},
    )
