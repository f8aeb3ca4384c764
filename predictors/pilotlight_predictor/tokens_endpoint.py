"""vLLM's /inference/v1/generate over this predictor: its answers, whole and as events. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pilotlight_predictor.token_tensors import Completion
from pilotlight_protocol.generation import TokenDelta
from pilotlight_protocol.tokens_api import (
    GeneratedTokens,
    GenerateTokens,
    TokensChoice,
    TokensUsage,
    choice_logprobs,
    prompt_logprobs_of,
)

PATH = "/inference/v1/generate"
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


def whole_answer(request: GenerateTokens, request_id: str, model: str, created: int, completion: Completion) -> bytes:
    choices = [
        TokensChoice(
            choice.index, choice.token_ids, choice.finish_reason, choice.stop_reason, choice_logprobs(choice.logprobs)
        )
        for choice in completion.choices
    ]
    return _encode(
        GeneratedTokens(
            request_id=request_id,
            choices=choices,
            model=model,
            created=created,
            usage=_usage(completion.prompt_tokens, completion.output_tokens),
            prompt_token_ids=request.token_ids if request.return_token_ids else None,
            prompt_logprobs=prompt_logprobs_of(completion.prompt_logprobs),
        )
    )


class TokensEvents:
    """One event per delta and choice, as vLLM writes them; with `include_usage` one more, without choices."""

    def __init__(self, request: GenerateTokens, request_id: str, choices: int) -> None:
        options = request.stream_options
        self._request_id = request_id
        self._prompt = request.token_ids if request.return_token_ids else None
        self._prompt_tokens = len(request.token_ids)
        self._tokens = [0] * choices
        self._continuous = options is not None and bool(options.include_usage and options.continuous_usage_stats)
        self._usage_at_end = options is not None and bool(options.include_usage)

    def events(self, deltas: Sequence[TokenDelta]) -> bytes:
        return b"".join([self._event(delta) for delta in deltas])

    def end(self) -> bytes:
        if not self._usage_at_end:
            return DONE
        usage = _usage(self._prompt_tokens, sum(self._tokens))
        return _line(GeneratedTokens(request_id=self._request_id, choices=[], usage=usage)) + DONE

    def _event(self, delta: TokenDelta) -> bytes:
        self._tokens[delta.index] += len(delta.token_ids)
        logprobs = choice_logprobs(delta.logprobs)
        choice = TokensChoice(delta.index, delta.token_ids, delta.finish_reason, delta.stop_reason, logprobs)
        event = GeneratedTokens(request_id=self._request_id, choices=[choice], prompt_token_ids=self._prompt)
        self._prompt = None
        if self._continuous:
            event.usage = _usage(self._prompt_tokens, self._tokens[delta.index])
        return _line(event)


def _line(event: GeneratedTokens) -> bytes:
    return b"data: " + _encode(event) + b"\n\n"


def _usage(prompt: int, completion: int) -> TokensUsage:
    return TokensUsage(prompt, completion, prompt + completion)
