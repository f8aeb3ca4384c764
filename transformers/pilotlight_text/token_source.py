"""The seam below text: tokens in, token events out, whoever makes them.

No I/O is done here. A source may be a server elsewhere, an engine in this process, or a test's fake; every one of them
passes the same conformance suite (`tests/fakes/token_source_conformance.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pilotlight_protocol.generation import GenerationParameters, TokenEvent

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One prompt. `input_ids`: int[seq]; `parameters.stop` is empty (text is not looked at below this seam).

    `metadata` goes where the tokens are made (trace context, tenancy). `whole`: nobody reads before the end, so the
    source may answer with one event per choice.
    """

    model_name: str
    request_id: str
    input_ids: list[int]
    parameters: GenerationParameters
    metadata: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What is known when an answer has started: its phases in ms, and metadata for the client."""

    phases_ms: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


class TokenStream(Protocol):
    """An answer under way. Close it in `finally`: closing one that has not ended aborts the generation."""

    facts: AnswerFacts

    async def events(self) -> list[TokenEvent]:
        """All events that have come since the last call, at least one; an empty list at the end.

        The first of all carries `prompt_tokens`, the last of each choice its `finish_reason`. Raises PilotlightError;
        Unavailable where an answer ends before its choices have.
        """
        ...

    async def close(self) -> None: ...


class TokenSource(Protocol):
    async def stream(self, request: TokenRequest) -> TokenStream:
        """Returns when the answer has started; cancelling it aborts the generation.

        Raises PilotlightError: InvalidInput (whoever makes tokens refuses the request), Unavailable, DeadlineExceeded.
        """
        ...

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        """Of a pooling model: a vector for each row. Cancelling it aborts them all. Raises as `stream`."""
        ...

    async def close(self) -> None: ...


class WholeAnswer:
    """What a source that answers `whole` requests in one piece answers with."""

    def __init__(self, events: list[TokenEvent], facts: AnswerFacts) -> None:
        self.facts = facts
        self._events = events

    async def events(self) -> list[TokenEvent]:
        events, self._events = self._events, []
        return events

    async def close(self) -> None:
        self._events = []
