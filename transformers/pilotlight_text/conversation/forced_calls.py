"""Calls that are held to their tools' schemas: what the engine is told, and who reads what comes of it. Pure.

Where the model's own way of writing calls is JSON between fixed texts, it writes them so; any other writes a list of
calls, or the arguments alone. Either is valid unless it is cut for its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_text.answer_parts.answer_format import AnswerFormat
from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, PartsParser
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script, ScriptedParser
from pilotlight_text.answer_parts.text_reader import Step, TextReader
from pilotlight_text.conversation.constraints import CALL_WHITESPACE, Element, json_element, tag
from pilotlight_text.conversation.conversation import Conversation, FunctionTool
from pilotlight_text.conversation.tools import arguments_schema
from pilotlight_text.tool_parsers.json_calls import read_calls


def callable_tools(conversation: Conversation) -> tuple[FunctionTool, ...]:
    name = conversation.tool_choice.name
    return tuple(tool for tool in conversation.tools if name in (None, tool.name))


def call_tags(conversation: Conversation, answer_format: AnswerFormat | None) -> list[Element]:
    """A tag per callable tool, as the model writes its calls; empty where that is not known."""
    tags = []
    for tool in callable_tools(conversation):
        envelope = None if answer_format is None else answer_format.call_envelope(tool.name)
        if envelope is None:
            return []
        before, behind = envelope
        tags.append(tag(before, json_element(arguments_schema(tool), CALL_WHITESPACE), behind))
    return tags


def calls_element(conversation: Conversation, tags: Sequence[Element]) -> Element:
    """At least one call, and no more than one where it is named or calls are not parallel."""
    one = conversation.tool_choice.mode == "named" or not conversation.parallel_tool_calls
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": "\n",
        "at_least_one": True,
        "stop_after_first": one,
    }


def strict_calls_element(conversation: Conversation, tags: Sequence[Element]) -> Element | None:
    """Any text, in which a call of a strict tool has its schema; None where no tool is strict."""
    tools = callable_tools(conversation)
    if not any(tool.strict for tool in tools):
        return None
    loose = [
        made if tool.strict else {**made, "content": json_element({"type": "object"}, CALL_WHITESPACE)}
        for tool, made in zip(tools, tags, strict=True)
    ]
    trigger = loose[0]["begin"].partition("\n")[0]  # the mark that begins a call of whatever function
    return {"type": "triggered_tags", "triggers": [trigger], "tags": loose}


def calls_schema(conversation: Conversation) -> dict[str, Any]:
    """Of a named call the schema of its arguments, else that of a list of calls."""
    tools = callable_tools(conversation)
    if conversation.tool_choice.mode == "named":
        return dict(arguments_schema(tools[0]))
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


def schema_parser(conversation: Conversation, reasoning: PartsParser | None) -> PartsParser:
    """Reads what `calls_schema` describes, behind what `reasoning` takes for such."""
    name = conversation.tool_choice.name
    calls = ScriptedParser(_read_list if name is None else _arguments_of(name))
    return calls if reasoning is None else _ReasoningThen(reasoning, calls)


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
