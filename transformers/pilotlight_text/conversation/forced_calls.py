"""Calls that the request forces: what the engine is told to hold the model to, and who reads what comes of it. Pure.

A forced call is JSON of the tool's own schema, so it is valid unless it is cut for its length. A model that reasons may
do so first. How a constraint is enforced is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.answer_parts.answer_format import AnswerFormat
from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, PartsParser, ReasoningText
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script, ScriptedParser
from pilotlight_text.answer_parts.text_reader import Step, TextReader
from pilotlight_text.conversation.conversation import Conversation, FunctionTool
from pilotlight_text.conversation.tools import arguments_schema
from pilotlight_text.tool_parsers.json_calls import read_calls

_SPACE = {"type": "regex", "pattern": r"[ \n]{0,4}"}


def forces_calls(conversation: Conversation) -> bool:
    return bool(conversation.tools) and conversation.tool_choice.mode in ("required", "named")


def constraint(conversation: Conversation, answer_format: AnswerFormat | None, prompt_end: str) -> StructuredOutputs:
    """Raises InvalidInput: the tools' schemas are too large, or the request constrains its answer besides."""
    if conversation.parameters.structured_outputs is not None:
        raise InvalidInput(
            "a forced call and another format of the answer exclude each other; send one of 'tool_choice' and "
            "'response_format' or 'structured_outputs'",
            param="tool_choice",
        )
    schema = _schema(conversation)
    closing = None if answer_format is None else answer_format.reasoning_end
    try:
        if answer_format is None or closing is None or not _reasons(answer_format, prompt_end):
            return StructuredOutputs(json=schema, disable_any_whitespace=True)
        elements = [{"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": closing}, _SPACE]
        elements.append({"type": "json_schema", "json_schema": schema})
        tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
        return StructuredOutputs(structural_tag=msgspec.json.encode(tag).decode())
    except ValueError as error:
        raise InvalidInput(f"the tools' schemas cannot be enforced: {error}", param="tools") from None


def forced_parser(conversation: Conversation, answer_format: AnswerFormat | None, prompt_end: str) -> PartsParser:
    name = conversation.tool_choice.name
    calls = ScriptedParser(_read_list if name is None else _arguments_of(name))
    if answer_format is None or not _reasons(answer_format, prompt_end):
        return calls
    reasoning = answer_format.parser((), calls=False, prompt_end=prompt_end)
    return calls if reasoning is None else _ReasoningThen(reasoning, calls)


def _reasons(answer_format: AnswerFormat, prompt_end: str) -> bool:
    """Whether the prompt has opened the reasoning. Where it has not, the call comes at once."""
    parser = answer_format.parser((), calls=False, prompt_end=prompt_end)
    if parser is None:
        return False
    parts = [*parser.push("x"), *parser.finish()]
    return any(isinstance(part, ReasoningText) for part in parts)


def _schema(conversation: Conversation) -> dict[str, Any]:
    tools = conversation.tools
    name = conversation.tool_choice.name
    if name is not None:
        (tool,) = (tool for tool in tools if tool.name == name)
        return dict(arguments_schema(tool))
    calls: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": [_call(tool) for tool in tools]}}
    if not conversation.parallel_tool_calls:
        calls["maxItems"] = 1
    return {**calls, "$defs": {tool.name: _moved(arguments_schema(tool), f"#/$defs/{tool.name}") for tool in tools}}


def _call(tool: FunctionTool) -> dict[str, Any]:
    properties = {"name": {"const": tool.name}, "parameters": {"$ref": f"#/$defs/{tool.name}"}}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, to: str) -> Any:
    """A schema that stands at `to` of another one: what it says of itself by reference is there, too."""
    if isinstance(schema, Mapping):
        return {key: _moved_reference(key, value, to) for key, value in schema.items()}
    if isinstance(schema, Sequence) and not isinstance(schema, str):
        return [_moved(item, to) for item in schema]
    return schema


def _moved_reference(key: str, value: Any, to: str) -> Any:
    return to + value[1:] if key == "$ref" and isinstance(value, str) and value[:1] == "#" else _moved(value, to)


def _read_list(reader: TextReader, writer: PartsWriter) -> Step[None]:
    space = yield from reader.space()
    no_call = yield from read_calls(reader, writer, bare_name=False)
    if no_call is not None:
        writer.content(space + no_call)


def _arguments_of(name: str) -> Script:
    def script(reader: TextReader, writer: PartsWriter) -> Step[None]:
        yield from reader.space()
        if not (yield from reader.peek()):
            return
        writer.begin(name)
        while (yield from reader.peek()):
            writer.arguments(reader.take(len(reader.text)))

    return script


class _ReasoningThen:
    """What `reasoning` leaves as content is read by `calls`."""

    def __init__(self, reasoning: PartsParser, calls: PartsParser) -> None:
        self._reasoning = reasoning
        self._calls = calls

    def push(self, text: str) -> list[AnswerPart]:
        return self._read_on(self._reasoning.push(text))

    def finish(self) -> list[AnswerPart]:
        return [*self._read_on(self._reasoning.finish()), *self._calls.finish()]

    def _read_on(self, parts: Sequence[AnswerPart]) -> list[AnswerPart]:
        out: list[AnswerPart] = []
        for part in parts:
            out += self._calls.push(part.text) if isinstance(part, ContentText) else [part]
        return out
