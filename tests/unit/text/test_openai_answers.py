"""Streamed chunks are the JSON that OpenAI's clients expect, however they were put together."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_text.detokenization.text_stream import Piece, Usage
from pilotlight_text.openai_api.chunks import ChatChunks, CompletionChunks


def parsed(chunk: bytes) -> dict[str, Any]:
    assert chunk.startswith(b"data: ")
    assert chunk.endswith(b"\n\n")
    assert chunk.count(b"\n") == 2
    value: dict[str, Any] = json.loads(chunk[6:])
    return value


def chat_chunks(*, include_usage: bool = False) -> ChatChunks:
    return ChatChunks('id"1', 7, "mödel[]", include_usage=include_usage)


@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text(), index=st.integers(0, 3))
def test_text_survives_as_it_is(text: str, index: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    chat = parsed(chat_chunks().text(index, text))
    assert chat == {
        "id": 'id"1',
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "mödel[]",
        "choices": [{"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
    }
    plain = parsed(CompletionChunks("id", 7, "[]", include_usage=True).text(index, text))
    assert plain["object"] == "text_completion"
    assert plain["choices"] == [{"index": index, "text": text, "logprobs": None, "finish_reason": None}]
    assert plain["usage"] is None


def test_first_last_and_usage() -> None:
    written = chat_chunks(include_usage=True)
    assert parsed(written.role(1))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    last = parsed(written.piece(Piece(1, "end", None, "stop", "\n"), {"content": []}))
    assert last["choices"] == [
        {
            "index": 1,
            "delta": {"content": "end"},
            "logprobs": {"content": []},
            "finish_reason": "stop",
            "stop_reason": "\n",
        }
    ]
    usage = parsed(written.usage(Usage(3, 4, 2)))
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
