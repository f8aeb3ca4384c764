"""How one conversation is answered: what the engine is held to, and who reads the choices. Pure.

The table of it: calls that must come, calls that may come, a format of the answer, reasoning, and what of these go
together. What cannot be had is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.answer_parts.answer_format import AnswerFormat
from pilotlight_text.answer_parts.parts import PartsParser
from pilotlight_text.conversation.constraints import (
    CALL_WHITESPACE,
    Element,
    after_reasoning,
    any_of,
    element_of,
    json_element,
    structural_tag,
)
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.conversation.forced_calls import (
    call_tags,
    calls_element,
    calls_schema,
    schema_parser,
    strict_calls_element,
)


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """`new_parser` is None where all text is content; `loose_strict`: what asked to be strict and is not held to it."""

    outputs: StructuredOutputs | None
    new_parser: Callable[[], PartsParser] | None
    loose_strict: bool = False


def answer_plan(conversation: Conversation, answer_format: AnswerFormat | None, prompt_end: str) -> AnswerPlan:
    """Raises InvalidInput."""
    try:
        return _Planner(conversation, answer_format, prompt_end).plan()
    except ValueError as error:
        raise InvalidInput(f"the tools' schemas cannot be enforced: {error}", param="tools") from None


def require_shown(shown: bool, conversation: Conversation) -> None:
    """Raises InvalidInput where the prompt says nothing of tools and nothing else makes the model call one."""
    if not shown and conversation.tool_choice.mode == "auto":
        raise InvalidInput(
            "the model's chat template shows it no tools, so it cannot choose one; send tool_choice 'required' or a "
            "function's name to force a call, or describe the tools in a message",
            param="tools",
        )


class _Planner:
    def __init__(self, conversation: Conversation, answer_format: AnswerFormat | None, prompt_end: str) -> None:
        self._conversation = conversation
        self._format = answer_format
        self._end = prompt_end
        self._outputs = conversation.parameters.structured_outputs

    def plan(self) -> AnswerPlan:
        if not self._conversation.calls_tools:
            return self._without_calls()
        return self._calls_may_come() if self._conversation.tool_choice.mode == "auto" else self._calls_must_come()

    def _calls_must_come(self) -> AnswerPlan:
        if self._outputs is not None:
            raise InvalidInput(
                "a forced call and another format of the answer exclude each other; send one of 'tool_choice' and "
                "'response_format' or 'structured_outputs'",
                param="tool_choice",
            )
        tags = call_tags(self._conversation, self._format)
        if tags:
            return AnswerPlan(self._held_to(calls_element(self._conversation, tags)), self._parser(calls=True))
        schema = calls_schema(self._conversation)
        behind = after_reasoning(json_element(schema, CALL_WHITESPACE), self._format, self._end)
        if behind is None:
            return AnswerPlan(
                StructuredOutputs(json=schema, disable_any_whitespace=True),
                lambda: schema_parser(self._conversation, None),
            )
        reasoning = self._parser(calls=False)
        return AnswerPlan(
            structural_tag(behind), lambda: schema_parser(self._conversation, reasoning() if reasoning else None)
        )

    def _calls_may_come(self) -> AnswerPlan:
        if self._format is None or not self._format.reads_calls:
            raise InvalidInput(
                "it is not known how this model writes calls; send tool_choice 'required' or a function's name to "
                "force one, or 'none' to show it the tools only",
                param="tools",
            )
        parser = self._parser(calls=True)
        tags = call_tags(self._conversation, self._format)
        if self._outputs is not None:
            element = element_of(self._outputs)
            if not tags or element is None:
                raise InvalidInput(
                    "this model's calls and a format of the answer cannot be had together; send tool_choice 'none' or "
                    "'required', or leave the format out",
                    param="tools",
                )
            return AnswerPlan(self._held_to(any_of([calls_element(self._conversation, tags), element])), parser)
        strict = strict_calls_element(self._conversation, tags) if tags else None
        loose = not tags and any(tool.strict for tool in self._conversation.tools)
        return AnswerPlan(None if strict is None else structural_tag(strict), parser, loose)

    def _without_calls(self) -> AnswerPlan:
        parser = self._parser(calls=False)
        if self._outputs is None:
            return AnswerPlan(None, parser)
        element = element_of(self._outputs)
        behind = None if element is None else after_reasoning(element, self._format, self._end)
        if behind is None:
            return AnswerPlan(self._outputs, None)
        return AnswerPlan(structural_tag(behind), parser)

    def _held_to(self, element: Element) -> StructuredOutputs:
        return structural_tag(after_reasoning(element, self._format, self._end) or element)

    def _parser(self, *, calls: bool) -> Callable[[], PartsParser] | None:
        known, conversation, end = self._format, self._conversation, self._end
        if known is None or known.parser(conversation.tools, calls=calls, prompt_end=end) is None:
            return None

        def new() -> PartsParser:
            made = known.parser(conversation.tools, calls=calls, prompt_end=end)
            assert made is not None
            return made

        return new
