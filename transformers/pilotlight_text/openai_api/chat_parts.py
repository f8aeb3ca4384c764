"""The answers of /chat/completions that have more than content: reasoning and calls, in messages and in chunks. Pure.

A call's id is made by `new_call_id`, which is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, ReasoningText, ToolCallBegin
from pilotlight_text.conversation.choices import ChoiceDelta, WholeChoice
from pilotlight_text.openai_api.answers import (
    AssistantMessage,
    CalledFunction,
    ChatChunkChoice,
    Delta,
    MessageToolCall,
    ToolCallDelta,
)
from pilotlight_text.openai_api.chunks import ChatChunks


def message(choice: WholeChoice, new_call_id: Callable[[], str]) -> AssistantMessage:
    """`content` is null where there is something else instead."""
    calls = [
        MessageToolCall(new_call_id(), "function", CalledFunction(call.arguments, call.name)) for call in choice.calls
    ]
    reasoning = choice.reasoning or msgspec.UNSET
    content = choice.content
    return AssistantMessage(
        "assistant",
        content if content or not choice.parts else None,
        None,
        reasoning,
        reasoning,
        calls or msgspec.UNSET,
    )


class PartChunks:
    """A chunk per part, then one with the reasons; log-probabilities go with the last one of a delta.

    The role is told with a choice's first token, whether it is known yet what it says or not.
    """

    def __init__(self, chunks: ChatChunks, new_call_id: Callable[[], str]) -> None:
        self._chunks = chunks
        self._new_call_id = new_call_id
        self._begun: set[int] = set()
        self._spoken: set[int] = set()

    def write(self, delta: ChoiceDelta, logprobs: dict[str, Any] | None) -> bytes:
        deltas = [self._delta(part) for part in delta.parts]
        ends = delta.finish_reason is not None
        if ends and not deltas and delta.index not in self._spoken:
            deltas.append(Delta(content=""))  # an answer without anything is an empty text
        elif ends or ((logprobs is not None or delta.token_ids is not None) and not deltas):
            deltas.append(Delta())
        out = self._role(delta)
        if not deltas:
            return out
        if delta.parts:
            self._spoken.add(delta.index)
        for shown in deltas[:-1]:
            out += self._chunks.choice(ChatChunkChoice(delta.index, shown))
        stop_reason = delta.stop_reason if ends else msgspec.UNSET
        token_ids = msgspec.UNSET if delta.token_ids is None else delta.token_ids
        last = ChatChunkChoice(delta.index, deltas[-1], logprobs, delta.finish_reason, stop_reason, token_ids)
        return out + self._chunks.choice(last)

    def _role(self, delta: ChoiceDelta) -> bytes:
        if delta.index in self._begun:
            return b""
        self._begun.add(delta.index)
        begins_with_content = bool(delta.parts) and isinstance(delta.parts[0], ContentText)
        return self._chunks.role(delta.index, "" if begins_with_content else None)

    def _delta(self, part: AnswerPart) -> Delta:
        if isinstance(part, ContentText):
            return Delta(content=part.text)
        if isinstance(part, ReasoningText):
            return Delta(reasoning_content=part.text, reasoning=part.text)
        if isinstance(part, ToolCallBegin):
            begun = ToolCallDelta(part.call, CalledFunction("", part.name), self._new_call_id(), "function")
            return Delta(tool_calls=[begun])
        return Delta(tool_calls=[ToolCallDelta(part.call, CalledFunction(part.text))])
