"""What the core answers with: the parts of each choice, as they come or whole. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.answer_parts.parts import (
    AnswerPart,
    ContentText,
    ReasoningText,
    ToolCallArguments,
    ToolCallBegin,
)
from pilotlight_text.detokenization.text_stream import Usage

ChoiceEnd = Literal["stop", "length", "tool_calls"]
"""`tool_calls`: the model ended after calling functions of its own choice; a call by name ends in `stop` (OpenAI)."""


class ChoiceDelta(msgspec.Struct):
    """What is new of a choice; the last one has a `finish_reason`. `parts` may be empty. `cuts_call`: the choice was
    ended in the middle of its last call."""

    index: int
    parts: list[AnswerPart]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: ChoiceEnd | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    cuts_call: bool = False


class ToolCall(msgspec.Struct):
    """`arguments`: JSON text, complete unless the choice `cuts_call` or the model wrote no JSON."""

    name: str
    arguments: str


class WholeChoice(msgspec.Struct):
    """`parts`: joined, so that no two of one kind follow each other. `cuts_call` as in ChoiceDelta."""

    index: int
    parts: list[AnswerPart]
    finish_reason: ChoiceEnd
    logprobs: list[TokenLogprob] | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    cuts_call: bool = False

    @property
    def content(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, ContentText)])

    @property
    def reasoning(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, ReasoningText)])

    @property
    def calls(self) -> list[ToolCall]:
        calls: dict[int, ToolCall] = {}
        for part in self.parts:
            if isinstance(part, ToolCallBegin):
                calls[part.call] = ToolCall(part.name, "")
            elif isinstance(part, ToolCallArguments):
                calls[part.call].arguments += part.text
        return list(calls.values())


class WholeAnswer(msgspec.Struct):
    """`prompt_ids` and `prompt_text` are the prompt that the conversation became."""

    choices: list[WholeChoice]
    usage: Usage
    prompt_ids: list[int] = []
    prompt_text: str = ""
    prompt_logprobs: list[TokenLogprob | None] | None = None


def extend(choices: dict[int, WholeChoice], delta: ChoiceDelta) -> None:
    """Add what is new to what is known of the delta's choice."""
    known = choices.get(delta.index)
    before = [] if known is None else known.parts
    logprobs = [*(known.logprobs or ()), *(delta.logprobs or ())] if known is not None else delta.logprobs
    token_ids = None
    if delta.token_ids is not None:
        token_ids = [*((known and known.token_ids) or ()), *delta.token_ids]
    choices[delta.index] = WholeChoice(
        delta.index,
        joined([*before, *delta.parts]),
        delta.finish_reason or "stop",
        logprobs or None,
        delta.stop_reason,
        token_ids,
        delta.cuts_call,
    )


def joined(parts: Iterable[AnswerPart]) -> list[AnswerPart]:
    """Deltas that follow each other and belong together, as one."""
    out: list[AnswerPart] = []
    for part in parts:
        last = out[-1] if out else None
        if isinstance(part, ToolCallArguments) and isinstance(last, ToolCallArguments) and last.call == part.call:
            out[-1] = ToolCallArguments(part.call, last.text + part.text)
        elif isinstance(part, ContentText) and isinstance(last, ContentText):
            out[-1] = ContentText(last.text + part.text)
        elif isinstance(part, ReasoningText) and isinstance(last, ReasoningText):
            out[-1] = ReasoningText(last.text + part.text)
        else:
            out.append(part)
    return out
