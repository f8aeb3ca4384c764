"""Prompts to text through the predictor: one prompt whole or streamed, or many at once.

Responsible for the life of the predictor's streams: closed as soon as every choice has met a stop string, and on every
way out. It must not know how answers are written (OpenAI, V2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenEvent, TokenLogprob
from pilotlight_text.detokenization.choice_text import ChoiceText, Piece
from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.stop_strings import StopStrings
from pilotlight_text.token_source import AnswerFacts, PredictorClient, TokenRequest, TokenStream

CONCURRENT_PROMPTS = 32
"""How many prompts of one request are with the predictor at a time."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One prompt, `prompt_ids`: int[seq]; `parameters.stop` are the stop strings, honoured here."""

    model_name: str
    request_id: str
    prompt_ids: list[int]
    parameters: GenerationParameters
    headers: Mapping[str, str] = field(default_factory=dict)
    include_stop_str_in_output: bool = False


@dataclass(slots=True)
class Usage:
    """Token counts; a prompt counts once, however many choices were made of it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: Usage) -> None:
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens


@dataclass(slots=True)
class Completion:
    """Everything made of one prompt: a piece per choice, which is all of it."""

    choices: list[Piece]
    usage: Usage
    facts: AnswerFacts
    prompt_logprobs: list[TokenLogprob | None] | None


class TextStream:
    """The text of one prompt as it comes. Close it in `finally`."""

    def __init__(self, tokens: TokenStream, choices: list[ChoiceText], prompt_tokens: int) -> None:
        self.facts = tokens.facts
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self._tokens = tokens
        self._choices = choices
        self._open = len(choices)
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0

    async def pieces(self) -> list[Piece]:
        """The pieces that have come since the last call, one per choice at most; an empty list at the end."""
        if self._open == 0:
            return []
        events = await self._tokens.events()
        if not events:
            raise Unavailable("the predictor ended its stream before the generation was complete; try again")
        if not all(0 <= event.index < len(self._choices) for event in events):
            raise Unavailable("the predictor sent a choice that was not asked for")
        pieces = [self._push(event) for event in events if not self._choices[event.index].finished]
        if self._open == 0:
            self._tokens.close()
        return pieces if len(pieces) < 2 else _merged(pieces)

    def _push(self, event: TokenEvent) -> Piece:
        if event.prompt_tokens is not None:
            self._prompt_tokens = event.prompt_tokens
            self._cached_tokens = event.cached_tokens or 0
            self.prompt_logprobs = event.prompt_logprobs
        piece = self._choices[event.index].push(event)
        if piece.finish_reason is not None:
            self._open -= 1
        return piece

    def usage(self) -> Usage:
        completed = sum(choice.completion_tokens for choice in self._choices)
        return Usage(self._prompt_tokens, completed, self._cached_tokens)

    def close(self) -> None:
        """Ends the generation in the predictor unless it has ended by itself."""
        if self._open > 0:
            self._open = 0
            self._tokens.close()


def _merged(pieces: list[Piece]) -> list[Piece]:
    """One piece per choice, in the order of their first: what came together is sent together."""
    merged: dict[int, Piece] = {}
    for piece in pieces:
        earlier = merged.setdefault(piece.index, piece)
        if earlier is not piece:
            earlier.text += piece.text
            earlier.finish_reason, earlier.stop_reason = piece.finish_reason, piece.stop_reason
            if piece.logprobs is not None:
                earlier.logprobs = [*(earlier.logprobs or ()), *piece.logprobs]
    return list(merged.values())


Part = tuple[int, TextStream, list[Piece]]


class TextGenerator:
    """Makes text of prompts, with the predictor and the vocabulary it was given."""

    def __init__(self, predictor: PredictorClient, vocabulary: Vocabulary) -> None:
        self._predictor = predictor
        self._vocabulary = vocabulary

    async def stream(self, request: TextRequest) -> TextStream:
        """Returns when the predictor's answer has started. Raises what it answered with."""
        tokens = await self._predictor.stream(_token_request(request))
        return TextStream(tokens, self._choices(request), len(request.prompt_ids))

    async def complete(self, request: TextRequest) -> Completion:
        """The whole text. With stop strings it is streamed inside, so that a match ends the generation."""
        if request.parameters.stop:
            text = await self.stream(request)
            try:
                return await _collect(text)
            finally:
                text.close()
        events, facts = await self._predictor.generate(_token_request(request))
        return await _collect(TextStream(_Whole(events, facts), self._choices(request), len(request.prompt_ids)))

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

    async def stream_all(self, requests: Sequence[TextRequest]) -> AsyncGenerator[Part, None]:
        """(position in `requests`, its stream, new pieces) as they come from all of them; each ends with no pieces."""
        if len(requests) == 1:
            text = await self.stream(requests[0])
            try:
                while pieces := await text.pieces():
                    yield 0, text, pieces
                yield 0, text, []
            finally:
                text.close()
            return
        places = asyncio.Semaphore(CONCURRENT_PROMPTS)
        arrived: asyncio.Queue[Part | BaseException] = asyncio.Queue(CONCURRENT_PROMPTS)

        async def pump(position: int, request: TextRequest) -> None:
            try:
                async with places, aclosing(self.stream_all([request])) as parts:
                    async for _, text, pieces in parts:
                        await arrived.put((position, text, pieces))
            except Exception as error:  # handed to the reader, who raises it
                await arrived.put(error)

        pumps = [asyncio.create_task(pump(position, request)) for position, request in enumerate(requests)]
        try:
            running = len(pumps)
            while running:
                item = await arrived.get()
                if isinstance(item, BaseException):
                    raise item
                running -= not item[2]
                yield item
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def _choices(self, request: TextRequest) -> list[ChoiceText]:
        stops = StopStrings(request.parameters.stop, include_in_output=request.include_stop_str_in_output)
        return [
            ChoiceText(
                index,
                self._vocabulary.detokenizer(request.prompt_ids),
                stops.scanner() if stops else None,
                min_tokens=request.parameters.min_tokens,
                show_stop_token=request.include_stop_str_in_output,
            )
            for index in range(request.parameters.n)
        ]


class _Whole:
    """A finished answer as a TokenStream."""

    def __init__(self, events: list[TokenEvent], facts: AnswerFacts) -> None:
        self.facts = facts
        self._events = events

    async def events(self) -> list[TokenEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._events = []


async def _collect(stream: TextStream) -> Completion:
    texts: dict[int, Piece] = {}
    while pieces := await stream.pieces():
        for piece in pieces:
            known = texts.get(piece.index)
            texts[piece.index] = piece if known is None else _merged([known, piece])[0]
    choices = sorted(texts.values(), key=lambda piece: piece.index)
    return Completion(choices, stream.usage(), stream.facts, stream.prompt_logprobs)


def _token_request(request: TextRequest) -> TokenRequest:
    parameters = request.parameters
    if parameters.stop:
        parameters = msgspec.structs.replace(parameters, stop=[])
    return TokenRequest(request.model_name, request.request_id, request.prompt_ids, parameters, request.headers)
