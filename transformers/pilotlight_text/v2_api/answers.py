"""The generate extension's answers: one object, or a server-sent event per piece. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.logprob_text import v2_logprobs
from pilotlight_text.detokenization.text_stream import Completion, EndReason, Piece, Usage

Count = Annotated[int, msgspec.Meta(ge=0)]
Logprobs = list[dict[str, Any] | None] | msgspec.UnsetType
StopReason = str | int | None

_encode = msgspec.json.Encoder().encode


class TextOutput(msgspec.Struct):
    index: Count
    text_output: str
    finish_reason: EndReason
    stop_reason: StopReason
    logprobs: Logprobs = msgspec.UNSET


class TextUsage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count


class TextAnswer(msgspec.Struct):
    """The first choice is also flat at the top level, as Triton has it."""

    model_name: str
    model_version: str
    id: str
    text_output: str
    finish_reason: EndReason
    outputs: Annotated[list[TextOutput], msgspec.Meta(min_length=1)]
    usage: TextUsage
    prompt_logprobs: Logprobs = msgspec.UNSET


class TextEvent(msgspec.Struct):
    """The first carries `prompt_tokens` and `cached_tokens`, the last of a choice its reasons."""

    model_name: str
    model_version: str
    id: str
    index: Count
    text_output: str
    finish_reason: EndReason | None
    stop_reason: StopReason | msgspec.UnsetType = msgspec.UNSET
    logprobs: Logprobs = msgspec.UNSET
    prompt_tokens: Count | msgspec.UnsetType = msgspec.UNSET
    cached_tokens: Count | msgspec.UnsetType = msgspec.UNSET
    prompt_logprobs: Logprobs = msgspec.UNSET


Head = tuple[str, str, str]
"""model_name, model_version, id."""


def whole_answer(head: Head, completion: Completion, vocabulary: Vocabulary) -> bytes:
    outputs = [
        TextOutput(
            choice.index,
            choice.text,
            choice.end_reason(),
            choice.stop_reason,
            _shown(choice.logprobs, vocabulary),
        )
        for choice in completion.choices
    ]
    usage = completion.usage
    return _encode(
        TextAnswer(
            *head,
            outputs[0].text_output,
            outputs[0].finish_reason,
            outputs,
            TextUsage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
            _shown(completion.prompt_logprobs, vocabulary),
        )
    )


def _shown(logprobs: Any, vocabulary: Vocabulary) -> Logprobs:
    return msgspec.UNSET if logprobs is None else v2_logprobs(logprobs, vocabulary)


class Events:
    """Writes the events of one stream; what they share is encoded once."""

    def __init__(self, head: Head, vocabulary: Vocabulary) -> None:
        self._head = head
        shared = _encode(dict(zip(TextEvent.__struct_fields__, head, strict=False)))
        self._before = b"data: " + shared[:-1] + b',"index":%d,"text_output":'
        self._vocabulary = vocabulary
        self._is_first = True

    def piece(self, piece: Piece, usage: Usage, prompt_logprobs: Any) -> bytes:
        if piece.finish_reason is None and piece.logprobs is None and not self._is_first:
            return self._before % piece.index + _encode(piece.text) + b',"finish_reason":null}\n\n'
        event = TextEvent(*self._head, piece.index, piece.text, piece.finish_reason)
        if piece.finish_reason is not None:
            event.stop_reason = piece.stop_reason
        event.logprobs = _shown(piece.logprobs, self._vocabulary)
        if self._is_first:
            self._is_first = False
            event.prompt_tokens, event.cached_tokens = usage.prompt_tokens, usage.cached_tokens
            event.prompt_logprobs = _shown(prompt_logprobs, self._vocabulary)
        return b"data: " + _encode(event) + b"\n\n"
