"""POST /completions: prompts (strings or token ids) to their continuations, with `echo` and `logprobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from pilotlight_text.conversation.constraint_field import CONSTRAINT, asked_as
from pilotlight_text.detokenization.text_stream import Piece, TextStream, Usage
from pilotlight_text.openai_api.answers import Completion, CompletionChoice, usage_object
from pilotlight_text.openai_api.chunks import DONE, CompletionChunks
from pilotlight_text.openai_api.requests import (
    COMPLETION_FIELDS,
    CompletionRequest,
    answer_id,
    prompts_of,
    read_completion_request,
)
from pilotlight_text.openai_api.sampling import completion_parameters, format_field, truncation_of
from pilotlight_text.openai_api.shown_choices import Prompt, ShownChoices
from pilotlight_text.prompt_streams import PromptStreams
from pilotlight_text.text_model import TextModel, TextRequest, add_facts, timed
from pilotlight_text.tokenization.truncation import Truncation
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.request_time import passed_on

_encode = msgspec.json.Encoder().encode


class Completions:
    """`now_s` gives Unix seconds, for `created`."""

    def __init__(self, model: TextModel, now_s: Callable[[], float]) -> None:
        self._model = model
        self._now_s = now_s

    async def handle(self, context: RequestContext) -> Reply | Stream:
        request, ignored = read_completion_request(context.body)
        COMPLETION_FIELDS.note(ignored, context)
        self._model.require(request.model)
        parameters = completion_parameters(request)
        prompts = await self.prompts(request, truncation_of(request, parameters), context)
        headers = passed_on(context)
        text_requests = [
            TextRequest(
                request.model,
                context.request_id if len(prompts) == 1 else f"{context.request_id}-{place}",
                prompt.ids,
                parameters,
                headers,
                include_stop_str_in_output=bool(request.include_stop_str_in_output),
                skip_special_tokens=request.hides_special_tokens,
                return_token_ids=bool(request.return_token_ids),
            )
            for place, prompt in enumerate(prompts)
        ]
        field = CONSTRAINT if parameters.structured_outputs is None else format_field(request)
        shown = ShownChoices(request, prompts, parameters.n, self._model.loaded().codec.vocabulary)
        named, created = answer_id("cmpl", request, context), int(self._now_s())
        if request.stream:
            chunks = CompletionChunks(named, created, request.model, include_usage=request.include_usage)
            return Stream(self._stream(request, text_requests, shown, chunks, field, context))
        with asked_as(field):
            return await self.whole(text_requests, shown, named, created, context)

    async def prompts(
        self, request: CompletionRequest, truncation: Truncation | None, context: RequestContext
    ) -> list[Prompt]:
        codec = self._model.loaded().codec
        special, hides = request.add_special_tokens is not False, request.hides_special_tokens
        prompts: list[Prompt] = []
        with timed(context, "tokenize"):
            for given in prompts_of(request.prompt):
                if isinstance(given, str):
                    ids = await codec.encode(given, add_special_tokens=special, truncation=truncation)
                else:
                    ids = codec.prompt_of(given, "prompt", truncation)
                if not request.echo:
                    prompts.append(Prompt("", ids))
                elif isinstance(given, str) and truncation is None:
                    offsets = await codec.offsets_of(given, special) if request.logprobs is not None else None
                    prompts.append(Prompt(given, ids, offsets))
                else:
                    prompts.append(Prompt(codec.decode(ids, skip_special_tokens=hides), ids))
        return prompts

    async def whole(
        self,
        text_requests: Sequence[TextRequest],
        shown: ShownChoices,
        named: str,
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
                written = CompletionChoice(index, choice.text, logprobs, choice.end_reason(), choice.stop_reason)
                shown.add_tokens(written, place, choice, completion.prompt_logprobs)
                choices.append(written)
        billed, model = usage_object(shown.billed(usage)), text_requests[0].model_name
        return Reply(_encode(Completion(named, "text_completion", created, model, choices, billed)))

    async def _stream(
        self,
        request: CompletionRequest,
        text_requests: Sequence[TextRequest],
        shown: ShownChoices,
        chunks: CompletionChunks,
        field: str,
        context: RequestContext,
    ) -> AsyncIterator[bytes]:
        usage = Usage()
        streams = PromptStreams(self._model, text_requests)
        try:
            with asked_as(field):
                await streams.start()
                while (part := await streams.next_part()) is not None:
                    place, text, pieces = part
                    add_facts(context, [text.facts])
                    if out := _written(place, text, pieces, shown, chunks, every_usage=request.usage_in_every_chunk):
                        yield out
                    if not pieces:
                        usage.add(text.usage())
        finally:
            await streams.close()
        yield chunks.usage(shown.billed(usage)) + DONE if request.include_usage else DONE


def _written(
    place: int,
    text: TextStream,
    pieces: Sequence[Piece],
    shown: ShownChoices,
    chunks: CompletionChunks,
    *,
    every_usage: bool,
) -> bytes:
    out = b""
    for piece in pieces:
        index = shown.index(place, piece)
        logprobs = shown.show(place, piece, text.prompt_logprobs)
        if piece.finish_reason is None and logprobs is None and piece.token_ids is None and not every_usage:
            if piece.text:
                out += chunks.text(index, piece.text)
            continue
        choice = chunks.choice_of(index, piece, logprobs)
        shown.add_tokens(choice, place, piece)
        chunks.usage_now = shown.billed(text.usage_of(piece.index)) if every_usage else None
        out += chunks.choice(choice)
    return out
