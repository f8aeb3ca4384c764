"""The parts of a choice to the content blocks of a message, and the events that tell of them. Pure.

Parts of one kind that follow each other are one block; a block stops when another starts or the choice ends. A message
that is not streamed is made here as well, so that its blocks are those of the streamed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pilotlight_text.answer_parts.json_reading import is_object
from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, ReasoningText, ToolCallArguments, ToolCallBegin
from pilotlight_text.anthropic_api import stream_events as told
from pilotlight_text.anthropic_api.answers import (
    UNSIGNED,
    ContentBlock,
    MessageAnswer,
    MessageUsage,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from pilotlight_text.anthropic_api.partial_input import input_of
from pilotlight_text.conversation.choices import ChoiceEnd


class MessageOutput:
    """`message` is the answer without content. `new_id` makes an id that begins with the given letters. With
    `hides_thinking` a thinking block says that there was some, and not which."""

    def __init__(self, message: MessageAnswer, new_id: Callable[[str], str], *, hides_thinking: bool = False) -> None:
        self.message = message
        self._new_id = new_id
        self._hides_thinking = hides_thinking
        self._blocks: list[ContentBlock] = []
        self._open: ContentBlock | None = None
        self._texts: list[str] = []
        self._unfinished_call = False
        self._events: list[told.StreamEvent] = []

    def begin(self, usage: MessageUsage) -> list[told.StreamEvent]:
        self._events += [told.MessageStart(msgspec.structs.replace(self.message, usage=usage)), told.Ping()]
        return self._taken()

    def push(self, parts: Sequence[AnswerPart]) -> list[told.StreamEvent]:
        for part in parts:
            if isinstance(part, ContentText):
                self._text(part.text)
            elif isinstance(part, ReasoningText):
                self._think(part.text)
            elif isinstance(part, ToolCallBegin):
                self._start(ToolUseBlock(self._new_id("toolu"), part.name, {}))
            else:
                self._arguments(part)
        return self._taken()

    def finish(self, usage: MessageUsage, end: ChoiceEnd, stopped_by: str | int | None) -> list[told.StreamEvent]:
        """`message` is whole then. `stopped_by`: the stop sequence, if it was one."""
        if not self._blocks and self._open is None:
            self._text("")
        self._stop()
        reason = self._reason(end, stopped_by)
        sequence = stopped_by if reason == "stop_sequence" and isinstance(stopped_by, str) else None
        self.message = msgspec.structs.replace(
            self.message, content=self._blocks, stop_reason=reason, stop_sequence=sequence, usage=usage
        )
        self._events += [told.MessageDelta(told.MessageEnd(reason, sequence), usage), told.MessageStop()]
        return self._taken()

    def _reason(self, end: ChoiceEnd, stopped_by: str | int | None) -> StopReason:
        """A call that a stop sequence cut short must not be run."""
        if end == "length":
            return "max_tokens"
        if any(isinstance(block, ToolUseBlock) for block in self._blocks) and not self._unfinished_call:
            return "tool_use"
        return "stop_sequence" if isinstance(stopped_by, str) else "end_turn"

    def _text(self, text: str) -> None:
        if not isinstance(self._open, TextBlock):
            self._start(TextBlock(""))
        self._delta(text, told.TextDelta(text))

    def _think(self, text: str) -> None:
        if not isinstance(self._open, ThinkingBlock):
            self._start(ThinkingBlock("", ""))
        shown = "" if self._hides_thinking else text
        self._delta(shown, told.ThinkingDelta(shown))

    def _arguments(self, part: ToolCallArguments) -> None:
        if not isinstance(self._open, ToolUseBlock):
            raise ValueError(f"arguments of call {part.call}, which is not the one that is being written")
        self._delta(part.text, told.InputJsonDelta(part.text))

    def _delta(self, text: str, delta: told.TextDelta | told.ThinkingDelta | told.InputJsonDelta) -> None:
        if text:
            self._texts.append(text)
            self._events.append(told.BlockDelta(len(self._blocks), delta))

    def _start(self, block: ContentBlock) -> None:
        self._stop()
        self._open, self._texts = block, []
        self._events.append(told.BlockStart(len(self._blocks), block))

    def _stop(self) -> None:
        block, text, place = self._open, "".join(self._texts), len(self._blocks)
        if block is None:
            return
        if isinstance(block, TextBlock):
            block = TextBlock(text)
        elif isinstance(block, ThinkingBlock):
            block = ThinkingBlock(text, UNSIGNED)
            self._events.append(told.BlockDelta(place, told.SignatureDelta(UNSIGNED)))
        else:
            self._unfinished_call = bool(text) and not is_object(text)
            block = ToolUseBlock(block.id, block.name, input_of(text))
        self._events.append(told.BlockStop(place))
        self._blocks.append(block)
        self._open = None

    def _taken(self) -> list[told.StreamEvent]:
        events, self._events = self._events, []
        return events
