"""POST /completions: prompts (strings or token ids) to their continuations, with `echo` and `logprobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.logprob_text import CompletionLogprobs, joined
from pilotlight_text.detokenization.text_stream import Piece, TextStream, Usage
from pilotlight_text.openai_api.answers import (
    Completion,
    CompletionChoice,
    usage_object,
)
from pilotlight_text.openai_api.chunks import DONE, CompletionChunks
from pilotlight_text.openai_api.requests import (
    CompletionRequest,
    completion_parameters,
    only_echo,
    prompts_of,
    read_completion_request,
)
from pilotlight_text.prompt_streams import PromptStreams
from pilotlight_text.text_model import TextModel, TextRequest, add_facts, timed
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import forwarded_headers

_encode = msgspec.json.Encoder().encode

Prompt = tuple[str, list[int]]
"""Its text (read by `echo` only) and its token ids."""


class Completions:
    """`now_s` gives Unix seconds, for `created`."""

    def __init__(self, model: TextModel, now_s: Callable[[], float]) -> None:
        self._model = model
        self._now_s = now_s

    async def handle(self, context: RequestContext) -> Reply | Stream:
        request = read_completion_request(context.body)
        self._model.require(request.model)
        parameters = completion_parameters(request)
        prompts = await self._prompts(request, context)
        headers = forwarded_headers(context.headers)
        text_requests = [
            TextRequest(
                request.model,
                context.request_id if len(prompts) == 1 else f"{context.request_id}-{place}",
                ids,
                parameters,
                headers,
                include_stop_str_in_output=bool(request.include_stop_str_in_output),
            )
            for place, (_, ids) in enumerate(prompts)
        ]
        shown = ShownChoices(request, prompts, parameters.n, self._model.loaded().codec.vocabulary)
        answer_id, created = f"cmpl-{context.request_id}", int(self._now_s())
        if request.stream:
            chunks = CompletionChunks(answer_id, created, request.model, include_usage=request.include_usage)
            return Stream(self._stream(request, text_requests, shown, chunks, context))
        return await self._whole(text_requests, shown, answer_id, created, context)

    async def _prompts(self, request: CompletionRequest, context: RequestContext) -> list[Prompt]:
        codec = self._model.loaded().codec
        special = request.add_special_tokens is not False
        prompts: list[Prompt] = []
        with timed(context, "tokenize"):
            for prompt in prompts_of(request.prompt):
                if isinstance(prompt, str):
                    prompts.append((prompt, await codec.encode(prompt, add_special_tokens=special)))
                else:
                    codec.check_ids(prompt, "prompt")
                    prompts.append((codec.decode(prompt) if request.echo else "", prompt))
        return prompts

    async def _whole(
        self,
        text_requests: Sequence[TextRequest],
        shown: ShownChoices,
        answer_id: str,
        created: int,
        context: RequestContext,
    ) -> Reply:
        completions = await self._model.complete_all(text_requests)
        add_facts(context, [completion.facts for completion in completions])
        usage = Usage()
        choices = []
        for place, completion in enumerate(completions):
            usage.add(completion.usage)
            for choice in completion.choices:
                index = shown.index(place, choice)
                logprobs = shown.show(place, choice, completion.prompt_logprobs)
                choices.append(CompletionChoice(index, choice.text, logprobs, choice.end_reason(), choice.stop_reason))
        billed, model = usage_object(shown.billed(usage)), text_requests[0].model_name
        return Reply(_encode(Completion(answer_id, "text_completion", created, model, choices, billed)))

    async def _stream(
        self,
        request: CompletionRequest,
        text_requests: Sequence[TextRequest],
        shown: ShownChoices,
        chunks: CompletionChunks,
        context: RequestContext,
    ) -> AsyncIterator[bytes]:
        usage = Usage()
        streams = PromptStreams(self._model, text_requests)
        try:
            await streams.start()
            while (part := await streams.next_part()) is not None:
                place, text, pieces = part
                add_facts(context, [text.facts])
                if out := _written(place, text, pieces, shown, chunks):
                    yield out
                if not pieces:
                    usage.add(text.usage())
        finally:
            await streams.close()
        yield chunks.usage(shown.billed(usage)) + DONE if request.include_usage else DONE


def _written(
    place: int, text: TextStream, pieces: Sequence[Piece], shown: ShownChoices, chunks: CompletionChunks
) -> bytes:
    out = b""
    for piece in pieces:
        logprobs = shown.show(place, piece, text.prompt_logprobs)
        index = shown.index(place, piece)
        if piece.finish_reason is not None or logprobs is not None:
            out += chunks.piece(index, piece, logprobs)
        elif piece.text:
            out += chunks.text(index, piece.text)
    return out


class ShownChoices:
    """What is shown of each choice: the echoed prompt before its first piece, its log-probabilities, its index. Pure.

    With `max_tokens` 0 the prompt is all there is: the one token the predictor made is neither shown nor billed.
    """

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Prompt], choices_per_prompt: int, vocabulary: Vocabulary
    ) -> None:
        self._prompts = prompts
        self._choices_per_prompt = choices_per_prompt
        self._vocabulary = vocabulary
        self._echo = bool(request.echo)
        self._only_echo = only_echo(request)
        self._wants_logprobs = request.logprobs is not None
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._begun: set[int] = set()

    def index(self, place: int, piece: Piece) -> int:
        """A choice's index in the answer: all choices of the first prompt, then those of the second, and so on."""
        return place * self._choices_per_prompt + piece.index

    def show(
        self, place: int, piece: Piece, prompt_logprobs: Sequence[TokenLogprob | None] | None
    ) -> dict[str, Any] | None:
        """Change `piece.text` to what is shown, and return the `logprobs` object of the piece."""
        if not (self._echo or self._wants_logprobs):
            return None
        index = self.index(place, piece)
        begins = self._echo and index not in self._begun
        self._begun.add(index)
        prompt_text, prompt_ids = self._prompts[place]
        if self._only_echo:
            piece.text, piece.logprobs = "", None
        if begins:
            piece.text = prompt_text + piece.text
        if not self._wants_logprobs:
            return None
        writer = self._logprobs.setdefault(index, CompletionLogprobs(self._vocabulary))
        before = writer.of_prompt(prompt_ids, prompt_logprobs or [None] * len(prompt_ids)) if begins else None
        after = writer.of(piece.logprobs or ())
        return after if before is None else joined(before, after)

    def billed(self, usage: Usage) -> Usage:
        return Usage(usage.prompt_tokens, 0, usage.cached_tokens) if self._only_echo else usage
