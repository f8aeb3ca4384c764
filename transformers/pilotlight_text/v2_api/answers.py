"""The generate extension's answers: one object, or a server-sent event per piece. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.logprob_text import v2_logprobs
from pilotlight_text.detokenization.text_stream import Completion, Piece, Usage

_encode = msgspec.json.Encoder().encode


def whole_answer(head: dict[str, str], completion: Completion, vocabulary: Vocabulary) -> bytes:
    """`head`: model_name, model_version, id. The first choice is also flat at the top level, as Triton has it."""
    first = completion.choices[0]
    usage = completion.usage
    answer: dict[str, Any] = {
        **head,
        "text_output": first.text,
        "finish_reason": first.finish_reason,
        "outputs": [_choice(choice, vocabulary) for choice in completion.choices],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }
    if completion.prompt_logprobs is not None:
        answer["prompt_logprobs"] = v2_logprobs(completion.prompt_logprobs, vocabulary)
    return _encode(answer)


def _choice(choice: Piece, vocabulary: Vocabulary) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "index": choice.index,
        "text_output": choice.text,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
    return shown if choice.logprobs is None else shown | {"logprobs": v2_logprobs(choice.logprobs, vocabulary)}


class Events:
    """Writes the events of one stream; what they share is encoded once."""

    def __init__(self, head: dict[str, str], vocabulary: Vocabulary) -> None:
        self._head = b"data: " + _encode(head)[:-1]
        self._vocabulary = vocabulary
        self._is_first = True

    def piece(self, piece: Piece, usage: Usage, prompt_logprobs: Any) -> bytes:
        """One event. The first carries `prompt_tokens` and `cached_tokens`, the last of a choice its reasons."""
        out = self._head + b',"index":%d,"text_output":' % piece.index + _encode(piece.text) + b',"finish_reason":'
        if piece.finish_reason is None:
            out += b"null"
        else:
            out += _encode(piece.finish_reason) + b',"stop_reason":' + _encode(piece.stop_reason)
        if piece.logprobs is not None:
            out += b',"logprobs":' + _encode(v2_logprobs(piece.logprobs, self._vocabulary))
        if self._is_first:
            self._is_first = False
            out += b',"prompt_tokens":%d,"cached_tokens":%d' % (usage.prompt_tokens, usage.cached_tokens)
            if prompt_logprobs is not None:
                out += b',"prompt_logprobs":' + _encode(v2_logprobs(prompt_logprobs, self._vocabulary))
        return out + b"}\n\n"
