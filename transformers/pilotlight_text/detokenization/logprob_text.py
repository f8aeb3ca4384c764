"""Log-probabilities as OpenAI and V2 show them: token ids to strings and bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.detokenization.detokenizer import Vocabulary


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def chat_logprobs(logprobs: Sequence[TokenLogprob], vocabulary: Vocabulary) -> dict[str, Any]:
    """`choices[].logprobs` of /chat/completions; a character that spans tokens is whole in their joined `bytes`."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        data = vocabulary.token_bytes(token_id)
        return {"token": _text(data), "logprob": logprob, "bytes": list(data)}

    content = [
        entry(token.token_id, token.logprob)
        | {"top_logprobs": [entry(token_id, logprob) for token_id, logprob in token.top]}
        for token in logprobs
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """`choices[].logprobs` of /completions; offsets (characters of the choice's text) go on from call to call."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._offset = 0

    def of_prompt(self, prompt_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """`prompt_ids`: int[seq], `logprobs` as long; the first has none."""
        return self._columns(zip(prompt_ids, logprobs, strict=False))

    def of(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return self._columns((token.token_id, token) for token in logprobs)

    def _columns(self, tokens: Iterable[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token_id, token in tokens:
            text = _text(self._vocabulary.token_bytes(token_id))
            columns["tokens"].append(text)
            columns["token_logprobs"].append(None if token is None else token.logprob)
            columns["top_logprobs"].append(None if token is None else self._top(text, token))
            columns["text_offset"].append(self._offset)
            self._offset += len(text)
        return columns

    def _top(self, text: str, token: TokenLogprob) -> dict[str, float]:
        top = {_text(self._vocabulary.token_bytes(token_id)): logprob for token_id, logprob in token.top}
        return top | {text: token.logprob}


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two results of one CompletionLogprobs, one after the other."""
    return {name: first[name] + second[name] for name in first}


def v2_logprobs(logprobs: Sequence[TokenLogprob | None], vocabulary: Vocabulary) -> list[dict[str, Any] | None]:
    """The contract's `logprobs` with the token's text beside its id."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {"token_id": token_id, "token": _text(vocabulary.token_bytes(token_id)), "logprob": logprob}

    return [
        None
        if token is None
        else entry(token.token_id, token.logprob)
        | {"top": [entry(token_id, logprob) for token_id, logprob in token.top]}
        for token in logprobs
    ]
