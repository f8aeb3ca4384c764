"""V2's tensors of token ids to prompts; deltas to whole choices, V2's tensors or generate's reply. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pilotlight_engine.contract import GenerateRequest
from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_protocol.generation import FinishReason, TokenDelta, TokenLogprob
from pilotlight_protocol.v2 import InferRequest, Tensor

INPUT_IDS = "input_ids"
INPUT_LENGTHS = "input_lengths"


def prompts_from(request: InferRequest, max_batch: int) -> list[list[int]]:
    """The rows of `input_ids` INT32|INT64 [batch, seq] ([seq] is taken for a batch of one), each cut to its
    `input_lengths` INT32|INT64 [batch] when that is given."""
    for tensor in request.inputs:
        if tensor.name not in (INPUT_IDS, INPUT_LENGTHS):
            raise InvalidInput(
                f"there is no input '{tensor.name}'; inputs are input_ids, input_lengths", param="inputs"
            )
    ids = request.tensor(INPUT_IDS)
    if ids is None:
        raise InvalidInput("input 'input_ids' is missing; a text goes to the transformer", param=INPUT_IDS)
    if ids.datatype not in ("INT32", "INT64"):
        raise InvalidInput(f"input 'input_ids' must be INT32 or INT64, not {ids.datatype}", param=INPUT_IDS)
    if len(ids.shape) not in (1, 2):
        raise InvalidInput(f"input 'input_ids' must be [batch, seq], not {ids.shape}", param=INPUT_IDS)
    batch, width = ids.shape if len(ids.shape) == 2 else (1, ids.shape[0])
    if batch == 0 or width == 0:
        raise InvalidInput(f"input 'input_ids' is empty: its shape is {ids.shape}", param=INPUT_IDS)
    if batch > max_batch:
        raise PayloadTooLarge(f"a batch of {batch} rows; at most {max_batch} are taken", param=INPUT_IDS)
    rows: list[list[int]] = [ids.data[start : start + width] for start in range(0, batch * width, width)]
    lengths = request.tensor(INPUT_LENGTHS)
    if lengths is None:
        return rows
    if lengths.datatype not in ("INT32", "INT64"):
        raise InvalidInput(f"input 'input_lengths' must be INT32, not {lengths.datatype}", param=INPUT_LENGTHS)
    if len(lengths.data) != batch or len(lengths.shape) not in (1, 2):
        raise InvalidInput(
            f"input 'input_lengths' must be [{batch}] as input_ids has {batch} rows, not {lengths.shape}",
            param=INPUT_LENGTHS,
        )
    for row, length in enumerate(lengths.data):
        if not 1 <= length <= width:
            raise InvalidInput(f"input_lengths[{row}] is {length}; it must be from 1 to {width}", param=INPUT_LENGTHS)
    return [row[:length] for row, length in zip(rows, lengths.data, strict=True)]


@dataclass(slots=True)
class Choice:
    """One finished or running sequence. `finish_reason` is None while it runs."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
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


class TokenOutput(msgspec.Struct):
    index: int
    output_ids: list[int]
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    logprobs: list[TokenLogprob] | msgspec.UnsetType = msgspec.UNSET


class TokenUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Generated(msgspec.Struct):
    """The JSON of generate; the first choice stands also at the top level, where Triton's clients look for it."""

    model_name: str
    model_version: str
    id: str
    outputs: list[TokenOutput]
    usage: TokenUsage
    output_ids: list[int]
    finish_reason: FinishReason | None
    prompt_logprobs: list[TokenLogprob | None] | msgspec.UnsetType = msgspec.UNSET


def generate_reply(model_name: str, model_version: str, request_id: str, completion: Completion) -> bytes:
    outputs = [
        TokenOutput(
            choice.index,
            choice.token_ids,
            choice.finish_reason,
            choice.stop_reason,
            msgspec.UNSET if choice.logprobs is None else choice.logprobs,
        )
        for choice in completion.choices
    ]
    usage = TokenUsage(completion.prompt_tokens, completion.output_tokens, completion.cached_tokens)
    shown = completion.prompt_logprobs
    return msgspec.json.encode(
        Generated(
            *(model_name, model_version, request_id, outputs, usage, outputs[0].output_ids, outputs[0].finish_reason),
            msgspec.UNSET if shown is None else shown,
        )
    )
