"""One generation on a leased engine, as a holder does it without a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from warmup_pool import Holder

from churn_harness.models import Endpoint
from pilotlight_protocol import engine_frames as f

CLEAN_STATUSES = {429, 503, 504}


class BrokenConnection(Exception):
    """`suspect`: what was connected to."""

    def __init__(self, suspect: str, error: BaseException) -> None:
        super().__init__(f"{suspect}: {type(error).__name__}: {error}")
        self.suspect, self.kind = suspect, type(error).__name__


class CleanFailure(Exception):
    """An answer that says what happened: a typed status, an error event, a lease's end with its reason."""


class WrongEngine(Exception):
    """The lease leads to an engine that goes by another name."""


@dataclass
class Answer:
    """`cached`: prompt tokens that the prefix cache had. `margins`: nats between the two likeliest tokens, where asked
    for."""

    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    margins: list[float] = field(default_factory=list)


async def generate_by_lease(
    lease: dict[str, Any], endpoint: Endpoint, prompt: Sequence[int], tokens: int, alternatives: int | None = None
) -> Answer:
    """Raises CleanFailure when the engine says why it gives no answer, EOFError or OSError when it is just gone."""
    async with Holder.open(lease) as holder:
        await welcomed(holder, endpoint)
        return await answer_of(holder, prompt, tokens, alternatives)


async def welcomed(holder: Holder, endpoint: Endpoint) -> None:
    welcome = await holder.frame()
    if isinstance(welcome, f.Failed):
        raise CleanFailure("the lease ended before it was used")
    if welcome.model_name != endpoint.name:
        raise WrongEngine(f"{endpoint.name}: its lease leads to an engine that is called {welcome.model_name}")


async def answer_of(holder: Holder, prompt: Sequence[int], tokens: int, alternatives: int | None = None) -> Answer:
    answer = Answer()
    holder.ask(tokens, list(prompt), logprobs=alternatives)
    while True:
        frame = await holder.frame()
        if isinstance(frame, f.Failed):
            raise CleanFailure("the lease ended while it generated")
        if isinstance(frame, f.Refused):
            raise CleanFailure(f"{frame.status} from the engine")
        if not isinstance(frame, f.Step):
            continue
        for _, delta in frame.deltas:
            answer.cached = max(answer.cached, delta.cached_tokens)
            answer.tokens += delta.token_ids
            for token in delta.logprobs or ():
                best = sorted((logprob for _, logprob in token.top), reverse=True)
                answer.margins.append(best[0] - best[1])
            if delta.finish_reason is not None:
                return answer
