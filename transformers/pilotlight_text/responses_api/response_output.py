"""The parts of a choice to the output items of a response, and the events that tell of them. Pure.

Parts of one kind that follow each other are one item; an item is done when another begins or the choice ends. A
response that is not streamed is made here as well, so that its items are those of the streamed one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pilotlight_text.answer_parts.json_reading import is_object
from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, ReasoningText, ToolCallArguments, ToolCallBegin
from pilotlight_text.conversation.choices import ChoiceEnd
from pilotlight_text.responses_api import stream_events as told
from pilotlight_text.responses_api.answers import (
    FunctionCallItem,
    IncompleteDetails,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningContent,
    ReasoningItem,
    Response,
    ResponseFailure,
    ResponseUsage,
)

Logprobs = list[dict[str, Any]]


class _OpenItem:
    """`begun`: the item as it was when it was added."""

    def __init__(self, begun: OutputItem, place: int) -> None:
        self.begun = begun
        self.place = place
        self.texts: list[str] = []
        self.logprobs: Logprobs = []


class ResponseOutput:
    """`response` is the answer without output. `new_id` makes an id that begins with the given letters."""

    def __init__(self, response: Response, new_id: Callable[[str], str]) -> None:
        self.response = response
        self._new_id = new_id
        self._items: list[OutputItem] = []
        self._open: _OpenItem | None = None
        self._events: list[told.StreamEvent] = []
        self._told = 0
        self._unplaced: Logprobs = []

    def begin(self) -> list[told.StreamEvent]:
        self._tell(told.ResponseCreated, response=self.response)
        self._tell(told.ResponseInProgress, response=self.response)
        return self._taken()

    def push(self, parts: Sequence[AnswerPart], logprobs: Logprobs | None = None) -> list[told.StreamEvent]:
        """`logprobs` of the tokens that came with the parts; those of content are kept with its text."""
        self._unplaced += logprobs or ()
        for part in parts:
            if isinstance(part, ContentText):
                self._content(part.text)
                continue
            self._unplaced = []
            if isinstance(part, ReasoningText):
                self._reasoning(part.text)
            elif isinstance(part, ToolCallBegin):
                self._add(FunctionCallItem(self._new_id("fc"), self._new_id("call"), part.name))
            else:
                self._arguments(part)
        return self._taken()

    def finish(
        self, usage: ResponseUsage, now_s: int, end: ChoiceEnd, *, cuts_call: bool = False
    ) -> list[told.StreamEvent]:
        """`response` is whole then. It is incomplete where it ended for its length or in the middle of a call."""
        cut = end == "length" or cuts_call
        if not self._items and self._open is None:
            self._content("")
        self._close("incomplete" if cut and not self._has_whole_call() else "completed")
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else now_s,
            incomplete_details=IncompleteDetails("max_output_tokens" if end == "length" else None) if cut else None,
            output=self._items,
            usage=usage,
        )
        self._tell(told.ResponseIncomplete if cut else told.ResponseCompleted, response=self.response)
        return self._taken()

    def fail(self, message: str) -> list[told.StreamEvent]:
        failure = ResponseFailure("server_error", message)
        failed = msgspec.structs.replace(self.response, status="failed", error=failure, output=self._items)
        self._tell(told.ResponseFailed, response=failed)
        return self._taken()

    def _content(self, text: str) -> None:
        item = self._open
        if item is None or not isinstance(item.begun, MessageItem):
            item = self._add(MessageItem(self._new_id("msg")))
            self._tell_part(told.PartAdded, item, part=OutputText())
        logprobs, self._unplaced = self._unplaced, []
        item.texts.append(text)
        item.logprobs += logprobs
        if text:
            self._tell_part(told.TextDelta, item, delta=text, logprobs=logprobs)

    def _reasoning(self, text: str) -> None:
        item = self._open
        if item is None or not isinstance(item.begun, ReasoningItem):
            item = self._add(ReasoningItem(self._new_id("rs")))
            self._tell_part(told.PartAdded, item, part=ReasoningContent())
        item.texts.append(text)
        self._tell_part(told.ReasoningDelta, item, delta=text)

    def _arguments(self, part: ToolCallArguments) -> None:
        item = self._open
        if item is None or not isinstance(item.begun, FunctionCallItem):
            raise ValueError(f"arguments of call {part.call}, which is not the one that is being written")
        item.texts.append(part.text)
        self._tell_part(told.ArgumentsDelta, item, delta=part.text)

    def _has_whole_call(self) -> bool:
        item = self._open
        return item is not None and isinstance(item.begun, FunctionCallItem) and is_object("".join(item.texts))

    def _add(self, begun: OutputItem) -> _OpenItem:
        self._close("completed")
        self._open = item = _OpenItem(begun, len(self._items))
        self._tell(told.ItemAdded, output_index=item.place, item=begun)
        return item

    def _close(self, status: ItemStatus) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        text = "".join(item.texts)
        done: OutputItem
        if isinstance(item.begun, FunctionCallItem):
            self._tell_part(told.ArgumentsDone, item, name=item.begun.name, arguments=text)
            done = msgspec.structs.replace(item.begun, arguments=text, status=status)
        elif isinstance(item.begun, ReasoningItem):
            thought = ReasoningContent(text)
            self._tell_part(told.ReasoningDone, item, text=text)
            self._tell_part(told.PartDone, item, part=thought)
            done = msgspec.structs.replace(item.begun, content=[thought], status=status)
        else:
            words = OutputText(text, [], item.logprobs)
            self._tell_part(told.TextDone, item, text=text, logprobs=item.logprobs)
            self._tell_part(told.PartDone, item, part=words)
            done = msgspec.structs.replace(item.begun, content=[words], status=status)
        self._items.append(done)
        self._tell(told.ItemDone, output_index=item.place, item=done)

    def _tell_part(self, kind: type[told.StreamEvent], item: _OpenItem, **fields: Any) -> None:
        self._tell(kind, item_id=item.begun.id, output_index=item.place, **fields)

    def _tell(self, kind: type[told.StreamEvent], **fields: Any) -> None:
        self._events.append(kind(sequence_number=self._told, **fields))
        self._told += 1

    def _taken(self) -> list[told.StreamEvent]:
        events, self._events = self._events, []
        return events
