"""What is shown of each choice of /completions: the echoed prompt, its log-probabilities, tokens and index. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.logprob_text import (
    CompletionLogprobs,
    joined,
    prompt_offsets,
    vllm_prompt_logprobs,
)
from pilotlight_text.detokenization.text_stream import Piece, Usage
from pilotlight_text.openai_api.answers import CompletionChoice, CompletionChunkChoice
from pilotlight_text.openai_api.requests import CompletionRequest
from pilotlight_text.openai_api.sampling import only_echo


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is read by `echo` only. `offsets`: where its tokens begin in the text, int[seq]; None where only the
    detokenizer knows."""

    text: str
    ids: list[int]
    offsets: list[int] | None = None


class ShownChoices:
    """With `max_tokens` 0 the prompt is all there is: the one token the predictor made is neither shown nor billed."""

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Prompt], choices_per_prompt: int, vocabulary: Vocabulary
    ) -> None:
        self._request = request
        self._prompts = prompts
        self._choices_per_prompt = choices_per_prompt
        self._vocabulary = vocabulary
        self._echo = bool(request.echo)
        self._only_echo = only_echo(request)
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._begun: set[int] = set()
        self._told: set[int] = set()

    def index(self, place: int, piece: Piece) -> int:
        """A choice's index in the answer: all choices of the first prompt, then those of the second, and so on."""
        return place * self._choices_per_prompt + piece.index

    def show(
        self, place: int, piece: Piece, prompt_logprobs: Sequence[TokenLogprob | None] | None
    ) -> dict[str, Any] | None:
        """Change `piece.text` to what is shown, and return the `logprobs` object of the piece."""
        most = self._request.logprobs
        if not self._echo and most is None:
            return None
        index = self.index(place, piece)
        begins = self._echo and index not in self._begun
        self._begun.add(index)
        prompt = self._prompts[place]
        if self._only_echo:
            piece.text, piece.logprobs, piece.token_ids = "", None, [] if piece.token_ids is not None else None
        if begins:
            piece.text = prompt.text + piece.text
        if most is None:
            return None
        writer = self._logprobs.get(index)
        if writer is None:
            writer = self._logprobs[index] = self._writer(prompt, int(most))
        before = self._of_prompt(writer, prompt, prompt_logprobs) if begins else None
        if before is None and piece.logprobs is None:
            return None
        after = writer.of(piece.logprobs or ())
        return after if before is None else joined(before, after)

    def add_tokens(
        self,
        choice: CompletionChoice | CompletionChunkChoice,
        place: int,
        piece: Piece,
        prompt_logprobs: Sequence[TokenLogprob | None] | None = None,
    ) -> None:
        """vLLM's `token_ids` and `prompt_token_ids` (the first time of a choice), and `prompt_logprobs`."""
        if piece.token_ids is not None:
            choice.token_ids = piece.token_ids
            if choice.index not in self._told:
                self._told.add(choice.index)
                choice.prompt_token_ids = self._prompts[place].ids
        most = self._request.prompt_logprobs
        if most is not None and prompt_logprobs is not None and isinstance(choice, CompletionChoice):
            choice.prompt_logprobs = vllm_prompt_logprobs(prompt_logprobs, self._vocabulary, int(most))

    def billed(self, usage: Usage) -> Usage:
        return Usage(usage.prompt_tokens, 0, usage.cached_tokens) if self._only_echo else usage

    def _writer(self, prompt: Prompt, most: int) -> CompletionLogprobs:
        # Alternatives that were asked for by id are all shown, however many.
        asked = self._request.logprob_token_ids
        return CompletionLogprobs(
            self._vocabulary,
            prompt.ids,
            len(asked) if asked else most,
            as_ids=bool(self._request.return_tokens_as_token_ids),
            skip_special_tokens=self._request.hides_special_tokens,
        )

    def _of_prompt(
        self, writer: CompletionLogprobs, prompt: Prompt, logprobs: Sequence[TokenLogprob | None] | None
    ) -> dict[str, Any]:
        offsets = prompt.offsets
        if offsets is None:
            skip = self._request.hides_special_tokens
            offsets = prompt_offsets(self._vocabulary, prompt.ids, skip_special_tokens=skip)
        return writer.of_prompt(prompt.ids, logprobs or [None] * len(prompt.ids), offsets, len(prompt.text))
