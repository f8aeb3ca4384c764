"""Gathers a request's deltas into whole choices, and choices into V2 tensors or the generate reply. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pilotlight_engine.contract import GenerateRequest
from pilotlight_protocol.generation import TokenDelta, TokenLogprob
from pilotlight_protocol.v2 import Tensor


@dataclass(slots=True)
class Choice:
    """One finished or running sequence. `finish_reason` is None while it runs."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None
    logprobs: list[TokenLogprob] | None = None


class Completion:
    """All choices of one prompt, filled delta by delta."""

    def __init__(self, request: GenerateRequest) -> None:
        self.choices = [Choice(index) for index in range(request.parameters.n)]
        self.prompt_tokens = len(request.prompt_token_ids)
        self.cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def output_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self.choices)

    def add(self, deltas: Sequence[TokenDelta]) -> None:
        for delta in deltas:
            choice = self.choices[delta.index]
            choice.token_ids += delta.token_ids
            if delta.logprobs is not None:
                choice.logprobs = (choice.logprobs or []) + delta.logprobs
            if delta.finish_reason is not None:
                choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
            if delta.cached_tokens >= 0:
                self.cached_tokens = delta.cached_tokens
            if delta.prompt_logprobs is not None:
                self.prompt_logprobs = delta.prompt_logprobs


def output_tensors(completions: Sequence[Completion]) -> list[Tensor]:
    """`output_ids` INT32 [rows, longest] padded with 0, `output_lengths` INT32 [rows], `finish_reason` BYTES [rows];
    rows = batch * n, the choices of a prompt behind one another."""
    choices = [choice for completion in completions for choice in completion.choices]
    width = max((len(choice.token_ids) for choice in choices), default=0)
    padded = [choice.token_ids + [0] * (width - len(choice.token_ids)) for choice in choices]
    return [
        Tensor("output_ids", "INT32", [len(choices), width], [token for row in padded for token in row]),
        Tensor("output_lengths", "INT32", [len(choices)], [len(choice.token_ids) for choice in choices]),
        Tensor("finish_reason", "BYTES", [len(choices)], [(choice.finish_reason or "").encode() for choice in choices]),
    ]


def delta_tensors(delta: TokenDelta) -> list[Tensor]:
    """The tensors of one delta: as `output_tensors` with one row; `finish_reason` is empty until the last one."""
    return [
        Tensor("output_ids", "INT32", [1, len(delta.token_ids)], delta.token_ids),
        Tensor("output_lengths", "INT32", [1], [len(delta.token_ids)]),
        Tensor("finish_reason", "BYTES", [1], [(delta.finish_reason or "").encode()]),
    ]


def generate_reply(model_name: str, model_version: str, request_id: str, completion: Completion) -> bytes:
    """The JSON of generate; the first choice stands also at the top level, where Triton's clients look for it."""
    outputs = [_choice(choice) for choice in completion.choices]
    reply: dict[str, Any] = {
        "model_name": model_name,
        "model_version": model_version,
        "id": request_id,
        "outputs": outputs,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.output_tokens,
            "cached_tokens": completion.cached_tokens,
        },
        "output_ids": outputs[0]["output_ids"],
        "finish_reason": outputs[0]["finish_reason"],
    }
    if completion.prompt_logprobs is not None:
        reply["prompt_logprobs"] = completion.prompt_logprobs
    return msgspec.json.encode(reply)


def _choice(choice: Choice) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "index": choice.index,
        "output_ids": choice.token_ids,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
    if choice.logprobs is not None:
        shape["logprobs"] = choice.logprobs
    return shape
