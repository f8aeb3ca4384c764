"""The server-sent events of a streamed answer: what its chunks share is encoded once. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_text.detokenization.text_stream import Piece, Usage
from pilotlight_text.openai_api.answers import (
    ChatChunk,
    ChatChunkChoice,
    CompletionChunk,
    CompletionChunkChoice,
    Delta,
    Unset,
    usage_object,
)

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class _Chunks:
    """`frame` is a chunk without choices: what stands around those of every other one.

    `usage_now`, where it is set, stands in every chunk (vLLM's `continuous_usage_stats`).
    """

    usage_now: Usage | None = None

    def __init__(self, frame: ChatChunk | CompletionChunk) -> None:
        self._frame = frame
        before, after = _encode(frame).rsplit(b"[]", 1)
        self._before, self._after = b"data: " + before + b"[", b"]" + after + b"\n\n"

    def usage(self, usage: Usage) -> bytes:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return b"data: " + _encode(msgspec.structs.replace(self._frame, usage=usage_object(usage))) + b"\n\n"

    def choice(self, choice: ChatChunkChoice | CompletionChunkChoice) -> bytes:
        if self.usage_now is None:
            return self._before + _encode(choice) + self._after
        return self._whole(choice)

    def _whole(self, choice: Any, **facts: Any) -> bytes:
        frame = msgspec.structs.replace(self._frame, choices=[choice], **facts)
        if self.usage_now is not None:
            frame.usage = usage_object(self.usage_now)
        return b"data: " + _encode(frame) + b"\n\n"


class ChatChunks(_Chunks):
    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        usage = None if include_usage else msgspec.UNSET
        super().__init__(ChatChunk(answer_id, "chat.completion.chunk", created, model, [], usage))
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._after
        self._before_text: dict[int, bytes] = {}
        self._of_prompt: dict[str, Any] = {}

    def tell_prompt(self, token_ids: list[int] | Unset, text: str | Unset) -> None:
        """What the first chunk says of the prompt."""
        self._of_prompt = {"prompt_token_ids": token_ids, "prompt_text": text}

    def role(self, index: int, content: str | None = "") -> bytes:
        """The first chunk of a choice."""
        choice = ChatChunkChoice(index, Delta(role="assistant", content=content))
        if self._of_prompt:
            of_prompt, self._of_prompt = self._of_prompt, {}
            return self._whole(choice, **of_prompt)
        return self.choice(choice)

    def echo(self, text: str, choices: int) -> bytes:
        """What stands before the words of each choice."""
        return b"".join([self.choice(ChatChunkChoice(index, Delta(content=text))) for index in range(choices)])

    def text(self, index: int, text: str) -> bytes:
        """A chunk with nothing but text: the one that is written for every token."""
        before = self._before_text.get(index)
        if before is None:
            before = self._before_text[index] = self._before + b'{"index":%d,"delta":{"content":' % index
        return before + _encode(text) + self._after_text

    def piece(self, piece: Piece, logprobs: dict[str, Any] | None) -> bytes:
        """A chunk with more than text, or the last one of a choice."""
        stop_reason = msgspec.UNSET if piece.finish_reason is None else piece.stop_reason
        token_ids = msgspec.UNSET if piece.token_ids is None else piece.token_ids
        delta = Delta(content=piece.text)
        return self.choice(ChatChunkChoice(piece.index, delta, logprobs, piece.finish_reason, stop_reason, token_ids))


class CompletionChunks(_Chunks):
    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        usage = None if include_usage else msgspec.UNSET
        super().__init__(CompletionChunk(answer_id, "text_completion", created, model, [], usage))
        self._after_text = b',"logprobs":null,"finish_reason":null}' + self._after

    def text(self, index: int, text: str) -> bytes:
        """A chunk with nothing but text: the one that is written for every token."""
        return self._before + b'{"index":%d,"text":' % index + _encode(text) + self._after_text

    def choice_of(self, index: int, piece: Piece, logprobs: dict[str, Any] | None) -> CompletionChunkChoice:
        """Of a chunk with more than text, or of the last one of a choice."""
        stop_reason = msgspec.UNSET if piece.finish_reason is None else piece.stop_reason
        return CompletionChunkChoice(index, piece.text, logprobs, piece.finish_reason, stop_reason)
