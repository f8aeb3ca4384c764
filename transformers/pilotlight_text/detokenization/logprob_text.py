"""Log-probabilities as OpenAI, vLLM and V2 show them: token ids to strings and bytes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.detokenization.detokenizer import Vocabulary


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def token_names(vocabulary: Vocabulary, *, as_ids: bool) -> Callable[[int], bytes]:
    """What a token is called: its bytes, or `token_id:7` where a request asked for names that JSON always carries
    (vLLM's `return_tokens_as_token_ids`)."""
    return (lambda token_id: b"token_id:%d" % token_id) if as_ids else vocabulary.token_bytes


def chat_logprobs(logprobs: Sequence[TokenLogprob], vocabulary: Vocabulary, *, as_ids: bool = False) -> dict[str, Any]:
    """`choices[].logprobs` of /chat/completions; a character that spans tokens is whole in their joined `bytes`."""
    name_of = token_names(vocabulary, as_ids=as_ids)

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        data = name_of(token_id)
        return {"token": _text(data), "logprob": logprob, "bytes": list(data)}

    content = [
        entry(token.token_id, token.logprob)
        | {"top_logprobs": [entry(token_id, logprob) for token_id, logprob in token.top]}
        for token in logprobs
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """`choices[].logprobs` of one choice of /completions, from call to call.

    `text_offset` counts characters of what is shown: a token that is not shown takes none, and the tokens that make one
    character begin where it does. `most`: how many alternatives were asked for.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        prompt_ids: Sequence[int],
        most: int,
        *,
        as_ids: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        self._name_of = token_names(vocabulary, as_ids=as_ids)
        self._most = most
        self._offset = 0
        self._detokenizer = vocabulary.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens)

    def of_prompt(
        self,
        prompt_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob | None],
        offsets: Sequence[int],
        prompt_chars: int,
    ) -> dict[str, Any]:
        """`prompt_ids`: int[seq], `logprobs` and `offsets` as long; the first has no logprob. `prompt_chars`: how many
        characters the echoed prompt has."""
        self._offset = prompt_chars
        return self._columns(zip(prompt_ids, logprobs, strict=False), iter(offsets).__next__)

    def of(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return self._columns(((token.token_id, token) for token in logprobs), None)

    def _columns(
        self, tokens: Iterable[tuple[int, TokenLogprob | None]], next_offset: Callable[[], int] | None
    ) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token_id, token in tokens:
            text = _text(self._name_of(token_id))
            columns["tokens"].append(text)
            columns["token_logprobs"].append(None if token is None else token.logprob)
            columns["top_logprobs"].append(None if token is None else self._top(text, token))
            columns["text_offset"].append(self._next(token_id) if next_offset is None else next_offset())
        return columns

    def _next(self, token_id: int) -> int:
        begins = self._offset + self._detokenizer.held_chars()
        self._offset += len(self._detokenizer.push((token_id,)))
        return begins

    def _top(self, text: str, token: TokenLogprob) -> dict[str, float]:
        top = {_text(self._name_of(token_id)): logprob for token_id, logprob in token.top[: self._most]}
        return top | {text: token.logprob}


def prompt_offsets(vocabulary: Vocabulary, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> list[int]:
    """Where the tokens of a prompt begin in its text, as the detokenizer makes it: int[seq]."""
    detokenizer = vocabulary.detokenizer(skip_special_tokens=skip_special_tokens)
    offsets, chars = [], 0
    for token_id in prompt_ids:
        offsets.append(chars + detokenizer.held_chars())
        chars += len(detokenizer.push((token_id,)))
    return offsets


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two results of one CompletionLogprobs, one after the other."""
    return {name: first[name] + second[name] for name in first}


def vllm_prompt_logprobs(
    logprobs: Sequence[TokenLogprob | None], vocabulary: Vocabulary, most: int
) -> list[dict[str, dict[str, Any]] | None]:
    """`prompt_logprobs` as vLLM's server writes them: for each token of the prompt but the first the token itself and
    the `most` likely ones, by id."""

    def entry(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        return {"logprob": logprob, "rank": rank, "decoded_token": _text(vocabulary.token_bytes(token_id))}

    return [
        None
        if token is None
        else {
            str(token.token_id): entry(token.token_id, token.logprob, token.rank),
            **{
                str(token_id): entry(token_id, logprob, rank)
                for rank, (token_id, logprob) in enumerate(token.top[:most], 1)
            },
        }
        for token in logprobs
    ]


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
