"""OpenAI's answers: whole objects, and the chunks of a stream.

Pure. A chunk is written from parts that are encoded once per request, since one is written for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pilotlight_text.detokenization.choice_text import Piece
from pilotlight_text.text_stream import Usage

Kind = Literal["chat.completion", "text_completion"]

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def whole_answer(
    kind: Kind, answer_id: str, created: int, model: str, choices: Sequence[dict[str, Any]], usage: Usage
) -> bytes:
    return _encode(
        {
            "id": answer_id,
            "object": kind,
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage_object(usage),
        }
    )


class Chunks:
    """Writes the server-sent events of one streamed answer."""

    def __init__(self, kind: Kind, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._is_chat = kind == "chat.completion"
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk" if self._is_chat else kind,
            "created": created,
            "model": model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        text_follows = b',"delta":{"content":' if self._is_chat else b',"text":'
        self._text_follows = text_follows
        self._text_ends = b"}" if self._is_chat else b""
        self._after_text = self._text_ends + b',"logprobs":null,"finish_reason":null}' + self._tail
        self._before_text: dict[int, bytes] = {}

    def role(self, index: int) -> bytes:
        """The first chunk of a chat choice."""
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return self._head + b'{"index":%d' % index + delta + self._tail

    def text(self, index: int, text: str) -> bytes:
        """A chunk with nothing but text: the one that is written for every token."""
        before = self._before_text.get(index)
        if before is None:
            before = self._before_text[index] = self._head + b'{"index":%d' % index + self._text_follows
        return before + _encode(text) + self._after_text

    def piece(self, index: int, piece: Piece, logprobs: dict[str, Any] | None) -> bytes:
        """A chunk with log-probabilities, or the last one of a choice."""
        reason = b""
        if piece.finish_reason is not None:
            reason = b',"stop_reason":' + _encode(piece.stop_reason)
        return b"".join(
            (
                self._head,
                b'{"index":%d' % index,
                self._text_follows,
                _encode(piece.text),
                self._text_ends,
                b',"logprobs":',
                _encode(logprobs),
                b',"finish_reason":',
                _encode(piece.finish_reason),
                reason,
                b"}",
                self._tail,
            )
        )

    def usage(self, usage: Usage) -> bytes:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return self._head + b'],"usage":' + _encode(usage_object(usage)) + b"}\n\n"
