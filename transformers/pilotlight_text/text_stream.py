"""One prompt's answer as text: token events to pieces per choice, cut at stop strings, counted as they are billed.

Responsible for the life of the token stream below: it is closed as soon as every choice has met its end, and on every
way out. It must not know how answers are written (OpenAI, V2).
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenEvent, TokenLogprob
from pilotlight_text.detokenization.choice_text import ChoiceText, Piece
from pilotlight_text.token_source import AnswerFacts, TokenStream


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
            raise Unavailable("the generation ended before it was complete; try again")
        choices = self._choices
        pieces = []
        for event in events:
            if not 0 <= event.index < len(choices):
                raise Unavailable("the engine sent a choice that was not asked for")
            if not choices[event.index].finished:
                pieces.append(self._push(event))
        if self._open == 0:
            await self._tokens.close()
        return pieces if len(pieces) < 2 else merged(pieces)

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

    async def collect(self) -> Completion:
        """All of it; closes the stream."""
        texts: dict[int, Piece] = {}
        try:
            while pieces := await self.pieces():
                for piece in pieces:
                    known = texts.get(piece.index)
                    texts[piece.index] = piece if known is None else merged([known, piece])[0]
        finally:
            await self.close()
        choices = sorted(texts.values(), key=lambda piece: piece.index)
        return Completion(choices, self.usage(), self.facts, self.prompt_logprobs)

    async def close(self) -> None:
        """Ends the generation unless it has ended by itself."""
        if self._open > 0:
            self._open = 0
            await self._tokens.close()


def merged(pieces: list[Piece]) -> list[Piece]:
    """One piece per choice, in the order of their first: what came together is sent together."""
    of_choice: dict[int, Piece] = {}
    for piece in pieces:
        earlier = of_choice.setdefault(piece.index, piece)
        if earlier is not piece:
            earlier.text += piece.text
            earlier.finish_reason, earlier.stop_reason = piece.finish_reason, piece.stop_reason
            if piece.logprobs is not None:
                earlier.logprobs = [*(earlier.logprobs or ()), *piece.logprobs]
    return list(of_choice.values())
