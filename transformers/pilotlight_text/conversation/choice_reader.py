"""From a choice's text to its parts, for one conversation: which of them are shown, and how the choice ends. Pure.

A call that the end of its choice cut in the middle is told as far as it came, streamed or not, and never ends in
`tool_calls`: nobody is to run it. One of whose arguments nothing came is not told: it would look like a call without
any. It must not know how a model marks reasoning and calls: that is the parser's.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_text.answer_parts.json_reading import is_object
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
        self._stop_token_ids = conversation.parameters.stop_token_ids
        self._thought: list[str] = []
        self._called = False
        self._answers = False
        self._begun: ToolCallBegin | None = None
        self._arguments: list[str] | None = None

    @property
    def reasoning(self) -> str:
        """All of it so far, shown or not."""
        return "".join(self._thought)

    def read(self, piece: Piece) -> ChoiceDelta:
        parts = self._shown(self._parser.push(piece.text)) if piece.text else []
        end, cuts_call = piece.finish_reason, False
        if end is not None:
            parts += self._shown(self._parser.finish())
            if not self._is_cut(piece):
                parts += self._held()
            elif self._begun is None and self._arguments is not None:
                cuts_call = not is_object("".join(self._arguments))
            if end == "stop" and self._called and not self._named and not cuts_call:
                end = "tool_calls"  # type: ignore[assignment]
        return ChoiceDelta(
            piece.index,
            parts,
            piece.logprobs if self._shows_reasoning or self._answers else None,
            end,
            piece.stop_reason,
            piece.token_ids,
            cuts_call,
        )

    def whole(self, piece: Piece) -> WholeChoice:
        """`piece` is all of its choice."""
        delta = self.read(piece)
        assert delta.finish_reason is not None
        return WholeChoice(
            delta.index,
            joined(delta.parts),
            delta.finish_reason,
            delta.logprobs,
            delta.stop_reason,
            delta.token_ids,
            delta.cuts_call,
        )

    def _shown(self, found: Sequence[AnswerPart]) -> list[AnswerPart]:
        shown: list[AnswerPart] = []
        for part in found:
            if isinstance(part, ReasoningText):
                self._thought.append(part.text)
                if self._shows_reasoning:
                    shown.append(part)
                continue
            self._answers = True
            if isinstance(part, ToolCallBegin | ToolCallArguments) and self._one_call and part.call > 0:
                continue
            shown += self._held()
            if isinstance(part, ToolCallBegin):
                self._begun, self._arguments = part, []
                continue
            if isinstance(part, ToolCallArguments) and self._arguments is not None:
                self._arguments.append(part.text)
            shown.append(part)
        return shown

    def _held(self) -> list[AnswerPart]:
        begun, self._begun = self._begun, None
        if begun is None:
            return []
        self._called = True
        return [begun]

    def _is_cut(self, piece: Piece) -> bool:
        """By a bound or a stop of the client's, and not by the model itself."""
        stopped_by = piece.stop_reason
        return piece.finish_reason == "length" or isinstance(stopped_by, str) or stopped_by in self._stop_token_ids
