"""A source of tokens in the test's own process: answers with a script, remembers what it was asked and closed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_protocol.generation import FinishReason, TokenEvent, TokenLogprob
from pilotlight_protocol.pooling import not_pooling
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream

FACTS = AnswerFacts({"prefill": 3.0}, {"x-pilotlight-lease": "path=warm"})


@dataclass
class Answer:
    """`batches`: token ids that come together, of every choice. `error`: raised instead of an answer, or, where there
    are batches, after them; `cut`: the stream ends after them without a reason."""

    batches: Sequence[Sequence[int]] = ((1,), (2,))
    reason: FinishReason = "length"
    error: Exception | None = None
    cut: bool = False
    facts: AnswerFacts = FACTS


class FakeTokenSource:
    """Implements TokenSource. Each request takes the next of `answers`, or the default one."""

    def __init__(self, default: Answer | None = None) -> None:
        self.default = default or Answer()
        self.answers: deque[Answer] = deque()
        self.asked: list[TokenRequest] = []
        self.closed = 0
        self.ended = False

    async def stream(self, request: TokenRequest) -> TokenStream:
        self.asked.append(request)
        answer = self.answers.popleft() if self.answers else self.default
        if answer.error is not None and not answer.batches:
            raise answer.error
        return _Stream(self, request, answer)

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        raise not_pooling()

    async def close(self) -> None:
        self.ended = True


class _Stream:
    def __init__(self, source: FakeTokenSource, request: TokenRequest, answer: Answer) -> None:
        self.facts = answer.facts
        self._source = source
        self._request = request
        self._answer = answer
        self._batches = deque(answer.batches)
        self._first = True

    async def events(self) -> list[TokenEvent]:
        if not self._batches:
            if self._answer.error is not None:
                raise self._answer.error
            return []
        batch = list(self._batches.popleft())
        last = not self._batches and not self._answer.cut and self._answer.error is None
        parameters = self._request.parameters
        events = []
        for index in range(parameters.n):
            event = TokenEvent(index=index, output_ids=list(batch), finish_reason=self._answer.reason if last else None)
            if parameters.logprobs is not None:
                event.logprobs = [TokenLogprob(token, -0.5, [(token, -0.5)]) for token in batch]
            if self._first and index == 0:
                event.prompt_tokens, event.cached_tokens = len(self._request.input_ids), 1
                if parameters.prompt_logprobs is not None:
                    event.prompt_logprobs = [
                        None,
                        *(TokenLogprob(token, -1.0) for token in self._request.input_ids[1:]),
                    ]
            events.append(event)
        self._first = False
        return events

    async def close(self) -> None:
        self._source.closed += 1
