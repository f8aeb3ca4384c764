"""A source of tokens that have been made already: whatever reads an answer reads it from here as from an engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import FinishReason, TokenEvent
from pilotlight_protocol.pooling import not_pooling
from pilotlight_protocol.tokens_api import TokensChoice, token_logprobs
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def event_of(choice: TokensChoice, prompt_tokens: int, *, ends: bool) -> TokenEvent:
    """`ends`: it is all of its choice, and without a reason it has stopped by itself. Raises InvalidInput."""
    reason = choice.finish_reason or ("stop" if ends else None)
    if reason is not None and reason not in _REASONS:
        raise InvalidInput(f"choice {choice.index} is no answer: it ended with '{reason[:64]}'", param="finish_reason")
    return TokenEvent(
        index=choice.index,
        output_ids=choice.token_ids or [],
        finish_reason=None if reason is None else _REASONS[reason],
        stop_reason=choice.stop_reason,
        logprobs=token_logprobs(choice.logprobs),
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
    )


class MadeTokens:
    """Implements TokenSource. `made`: by request id the batches of its answer."""

    def __init__(self, made: Mapping[str, list[list[TokenEvent]]]) -> None:
        self._made = made

    async def stream(self, request: TokenRequest) -> TokenStream:
        return _MadeStream(self._made[request.request_id])

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        raise not_pooling()

    async def close(self) -> None:
        return


class _MadeStream:
    def __init__(self, batches: list[list[TokenEvent]]) -> None:
        self.facts = AnswerFacts()
        self._batches = deque(batches)

    async def events(self) -> list[TokenEvent]:
        return self._batches.popleft() if self._batches else []

    async def close(self) -> None:
        self._batches.clear()
