"""One prompt's answer as text: token events to pieces per choice, cut at stop strings, counted as they are billed.

Responsible for what a client sees of each choice, and for the life of the token stream below: it is closed as soon as
every choice has met its end, and on every way out. It must not know how answers are written (OpenAI, V2); what is read
out of a choice's text (tool calls, reasoning) comes between its pieces and their writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import REPEATED, TokenEvent, TokenLogprob
from pilotlight_text.detokenization.detokenizer import Detokenizer
from pilotlight_text.detokenization.stop_strings import StopScanner
from pilotlight_text.token_source import AnswerFacts, TokenStream

_NO_TOKENS: Mapping[int, str | None] = MappingProxyType({})

EndReason = Literal["stop", "length"]
"""Why a choice has ended, as clients are told; a generation that was given up ends in an error."""


class Piece(msgspec.Struct):
    """New text of a choice. `stop_reason`: the stop string or token id that ended it, None for end-of-sequence.
    `token_ids`: what it was made of, the token that ended it included; kept where the request asked for them."""

    index: int
    text: str
    logprobs: list[TokenLogprob] | None = None
    finish_reason: EndReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None

    def end_reason(self) -> EndReason:
        """Of a piece that is all of its choice."""
        assert self.finish_reason is not None
        return self.finish_reason


class Usage(msgspec.Struct):
    """Token counts; a prompt counts once, however many choices were made of it. `reasoning_tokens`: those of the
    completion that are reasoning, shown or not; None where the answer is not read for it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None

    def add(self, other: Usage) -> None:
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens


class Completion(msgspec.Struct):
    """Everything made of one prompt: a piece per choice, which is all of it."""

    choices: list[Piece]
    usage: Usage
    facts: AnswerFacts
    prompt_logprobs: list[TokenLogprob | None] | None


class ChoiceText:
    """`push` every event of the choice, in order, until `finished`.

    With stop strings tokens are looked at one by one, so that the count ends with the token that completed the match,
    however the events were coalesced; before `min_tokens` none is looked for (vLLM does the same). The token that ended
    a generation (end of sequence, a stop token) is counted and not shown. `stop_tokens`: those that stand for a stop
    string which text does not show, or for an end of sequence (None).
    """

    __slots__ = (
        "_detokenizer",
        "_keep_ids",
        "_min_tokens",
        "_scanner",
        "_show_stop_token",
        "_stop_tokens",
        "completion_tokens",
        "finished",
        "index",
    )

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        scanner: StopScanner | None = None,
        *,
        min_tokens: int = 0,
        show_stop_token: bool = False,
        stop_tokens: Mapping[int, str | None] = _NO_TOKENS,
        keep_ids: bool = False,
    ) -> None:
        self.index = index
        self.finished = False
        self.completion_tokens = 0
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._min_tokens = min_tokens
        self._show_stop_token = show_stop_token
        self._stop_tokens = stop_tokens
        self._keep_ids = keep_ids

    def push(self, event: TokenEvent) -> Piece:
        """The piece of one event. Raises Unavailable when the predictor gave the generation up."""
        if not self._keep_ids:
            return self._push(event)
        before = self.completion_tokens
        piece = self._push(event)
        piece.token_ids = event.output_ids[: self.completion_tokens - before]
        return piece

    def _push(self, event: TokenEvent) -> Piece:
        ids = event.output_ids
        reason = event.finish_reason
        if reason is None and self._scanner is None:
            self.completion_tokens += len(ids)
            return Piece(self.index, self._detokenizer.push(ids), event.logprobs)
        if reason == "abort":
            raise Unavailable("the predictor gave this generation up before it was complete; try again")
        shown = ids
        if reason == "stop" and not self._show_stop_token and event.stop_reason != REPEATED:
            shown = ids[:-1]
        if self._scanner is None:
            self.completion_tokens += len(ids)
            text = self._detokenizer.push(shown) if shown else ""
        else:
            text, seen = self._scan(self._scanner, shown)
            if self._scanner.matched is not None:
                self.finished = True
                self.completion_tokens += seen
                logprobs = event.logprobs[:seen] if event.logprobs is not None else None
                return Piece(self.index, text, logprobs, "stop", self._scanner.matched)
            self.completion_tokens += len(ids)
        if reason is None:
            return Piece(self.index, text, event.logprobs)
        self.finished = True
        return self._last(text + self._detokenizer.finish() if self._scanner is None else text, event, reason)

    def _scan(self, scanner: StopScanner, ids: list[int]) -> tuple[str, int]:
        """Text that may be shown and how many of `ids` were looked at until a match."""
        parts, marks = [], scanner.marks
        for seen, token_id in enumerate(ids, start=1):
            text = self._detokenizer.push((token_id,))
            if self.completion_tokens + seen <= self._min_tokens:
                parts.append(text)
                continue
            if marks:
                text += marks.get(token_id, "")
            if text:
                parts.append(scanner.push(text))
                if scanner.matched is not None:
                    return "".join(parts), seen
        return "".join(parts), len(ids)

    def _last(self, text: str, event: TokenEvent, reason: EndReason) -> Piece:
        stop_reason = event.stop_reason
        if reason == "stop" and event.output_ids and event.output_ids[-1] in self._stop_tokens:
            stop_reason = self._stop_tokens[event.output_ids[-1]]
            if self._show_stop_token:
                text += stop_reason or ""
        if self._scanner is not None:
            text += self._scanner.push(self._detokenizer.finish())
            text += self._scanner.finish()
            if self._scanner.matched is not None:
                reason, stop_reason = "stop", self._scanner.matched
        return Piece(self.index, text, event.logprobs, reason, stop_reason)


class TextStream:
    """The text of one prompt as it comes. Close it in `finally`. `copies`: every choice is made of the first one's
    tokens."""

    def __init__(
        self, tokens: TokenStream, choices: list[ChoiceText], prompt_tokens: int, *, copies: bool = False
    ) -> None:
        self.facts = tokens.facts
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self._tokens = tokens
        self._copies = copies
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
        if self._copies:
            events = [msgspec.structs.replace(event, index=index) for event in events for index in range(len(choices))]
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

    def usage_of(self, index: int) -> Usage:
        """Of one choice, so far."""
        return Usage(self._prompt_tokens, self._choices[index].completion_tokens, self._cached_tokens)

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
            if piece.token_ids is not None:
                earlier.token_ids = [*(earlier.token_ids or ()), *piece.token_ids]
            if piece.logprobs is not None:
                earlier.logprobs = [*(earlier.logprobs or ()), *piece.logprobs]
    return list(of_choice.values())
