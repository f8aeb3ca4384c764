"""From a choice's text to its parts, for one conversation: which of them are shown, and how the choice ends. Pure.

It must not know how a model marks reasoning and calls: that is the parser's.
"""

from __future__ import annotations

from pilotlight_text.answer_parts.parts import (
    AnswerPart,
    PartsParser,
    ReasoningText,
    ToolCallArguments,
    ToolCallBegin,
)
from pilotlight_text.conversation.choices import ChoiceDelta, WholeChoice, joined
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.detokenization.text_stream import Piece


class ChoiceReader:
    """One choice. Without `include_reasoning` neither reasoning nor log-probabilities of it are shown; without
    `parallel_tool_calls` no call after the first."""

    def __init__(self, parser: PartsParser, conversation: Conversation) -> None:
        self._parser = parser
        self._shows_reasoning = conversation.include_reasoning
        self._one_call = not conversation.parallel_tool_calls
        self._named = conversation.tool_choice.mode == "named"
        self._called = False
        self._answers = False

    def read(self, piece: Piece) -> ChoiceDelta:
        found = self._parser.push(piece.text) if piece.text else []
        if piece.finish_reason is not None:
            found = [*found, *self._parser.finish()]
        parts = [part for part in found if self._shown(part)]
        end = piece.finish_reason
        return ChoiceDelta(
            piece.index,
            parts,
            piece.logprobs if self._shows_reasoning or self._answers else None,
            "tool_calls" if end == "stop" and self._called and not self._named else end,
            piece.stop_reason,
            piece.token_ids,
        )

    def whole(self, piece: Piece) -> WholeChoice:
        """`piece` is all of its choice."""
        delta = self.read(piece)
        assert delta.finish_reason is not None
        parts = joined(delta.parts)
        return WholeChoice(delta.index, parts, delta.finish_reason, delta.logprobs, delta.stop_reason, delta.token_ids)

    def _shown(self, part: AnswerPart) -> bool:
        if isinstance(part, ReasoningText):
            return self._shows_reasoning
        self._answers = True
        if isinstance(part, ToolCallBegin):
            self._called = True
        return not (self._one_call and isinstance(part, ToolCallBegin | ToolCallArguments) and part.call > 0)
