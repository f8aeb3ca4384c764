"""What the routes share: the model's names, its tokenizer and template once they are loaded, and prompts to text.

Responsible for saying "not ready yet" until they are. Readiness never asks the source of tokens: scaled to zero, it is
woken by the first request and not by a probe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from pilotlight_protocol.errors import ModelNotFound, Unavailable
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.detokenization.choice_text import ChoiceText
from pilotlight_text.detokenization.stop_strings import StopStrings
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.text_stream import Completion, TextStream
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenSource
from pilotlight_text.tokenization.text_codec import TextCodec
from pilotlight_wire.handlers import RequestContext

VERSION = "1"
CONCURRENT_PROMPTS = 32
"""How many prompts of one request are with the source at a time."""


@dataclass(frozen=True, slots=True)
class LoadedText:
    """The parts that come from the model's files. `loaded_at_s`: Unix seconds, `created` in OpenAI's model list."""

    codec: TextCodec
    template: ChatTemplate
    loaded_at_s: int


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One prompt, `prompt_ids`: int[seq]; `parameters.stop` are the stop strings, honoured here."""

    model_name: str
    request_id: str
    prompt_ids: list[int]
    parameters: GenerationParameters
    metadata: Mapping[str, str] = field(default_factory=dict)
    include_stop_str_in_output: bool = False


class TextModel:
    """`names`: the model's, then those of the adapters the source serves."""

    def __init__(self, names: Sequence[str], source: TokenSource) -> None:
        self.names = tuple(names)
        self._source = source
        self._loaded: LoadedText | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def loaded(self) -> LoadedText:
        """Raises Unavailable until the tokenizer is loaded."""
        if self._loaded is None:
            raise self.why_not_loaded()
        return self._loaded

    def why_not_loaded(self) -> Unavailable:
        return Unavailable(f"the tokenizer of model '{self.name}' is not loaded; try again", retry_after_s=1)

    def set_loaded(self, loaded: LoadedText | None) -> None:
        self._loaded = loaded

    def require(self, model_name: str) -> None:
        """Raises ModelNotFound unless that name is served here."""
        if model_name not in self.names:
            raise ModelNotFound(
                f"there is no model '{model_name}' here; this server has {', '.join(self.names)}", param="model"
            )

    async def stream(self, request: TextRequest) -> TextStream:
        """Returns when the answer has started. Raises what the source does."""
        return await self._start(request, whole=False)

    async def complete(self, request: TextRequest) -> Completion:
        """The whole text. With stop strings it is streamed inside, so that a match ends the generation."""
        text = await self._start(request, whole=not request.parameters.stop)
        return await text.collect()

    async def complete_all(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Completions in the order of `requests`, bounded in number at a time; the first failure ends all."""
        if len(requests) == 1:
            return [await self.complete(requests[0])]
        places = asyncio.Semaphore(CONCURRENT_PROMPTS)

        async def one(request: TextRequest) -> Completion:
            async with places:
                return await self.complete(request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(request)) for request in requests]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _start(self, request: TextRequest, *, whole: bool) -> TextStream:
        vocabulary = self.loaded().codec.vocabulary
        parameters, stops = request.parameters, None
        if parameters.stop:
            stops = StopStrings(parameters.stop, include_in_output=request.include_stop_str_in_output)
            parameters = msgspec.structs.replace(parameters, stop=[])
        tokens = await self._source.stream(
            TokenRequest(
                request.model_name, request.request_id, request.prompt_ids, parameters, request.metadata, whole
            )
        )
        choices = [
            ChoiceText(
                index,
                vocabulary.detokenizer(request.prompt_ids),
                stops.scanner() if stops else None,
                min_tokens=parameters.min_tokens,
                show_stop_token=request.include_stop_str_in_output,
            )
            for index in range(parameters.n)
        ]
        return TextStream(tokens, choices, len(request.prompt_ids))


@contextmanager
def timed(context: RequestContext, phase: str) -> Iterator[None]:
    """Adds the milliseconds spent inside to the request's `Server-Timing`."""
    started_s = time.perf_counter()
    try:
        yield
    finally:
        context.server_timing[phase] = (time.perf_counter() - started_s) * 1000


def add_facts(context: RequestContext, facts: Iterable[AnswerFacts]) -> None:
    """Pass phases and metadata on; of several answers the slowest of each phase counts."""
    for answer in facts:
        context.response_headers.update(answer.metadata)
        for phase, milliseconds in answer.phases_ms.items():
            context.server_timing[phase] = max(milliseconds, context.server_timing.get(phase, 0.0))
