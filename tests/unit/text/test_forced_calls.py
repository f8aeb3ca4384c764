"""Forced calls: what the engine is held to is what the tools take, and what it makes of that comes out as calls."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.parts import ContentText, ReasoningText, ToolCallArguments, ToolCallBegin
from pilotlight_text.conversation.answer_plan import answer_plan
from pilotlight_text.conversation.choices import joined
from pilotlight_text.conversation.conversation import Conversation, FunctionTool, ToolChoice
from pilotlight_text.conversation.forced_calls import calls_schema

TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "leaf": {"$ref": "#/$defs/Leaf"}},
    "additionalProperties": False,
    "$defs": {"Leaf": {"type": "integer"}},
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "day": {"$ref": "#/$defs/Leaf"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"Leaf": {"enum": ["today", "tomorrow"]}},
}
TOOLS = (FunctionTool("tree", None, TREE), FunctionTool("weather", "d", WEATHER), FunctionTool("now"))
REASONING = ChosenFormat(None, "qwen3")


REQUIRED = ToolChoice("required")


def conversation(choice: ToolChoice = REQUIRED, **fields: Any) -> Conversation:
    return Conversation("m", [], GenerationParameters(), tools=TOOLS, tool_choice=choice, **fields)


def schema_of(made: Conversation) -> dict[str, Any]:
    schema = calls_schema(made)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "parameters": arguments}


@pytest.mark.parametrize(
    "calls",
    [
        [call("now")],
        [call("tree", left={"left": {"leaf": 1}}), call("weather", city="Oslo", day="today")],
    ],
)
def test_what_the_tools_take_is_valid(calls: list[Any]) -> None:
    jsonschema.validate(calls, schema_of(conversation()))


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [call("other")],
        [call("weather")],
        [call("weather", city="Oslo", day=1)],
        [call("tree", left={"leaf": "today"})],
        [call("tree", city="Oslo")],
        [{"name": "now"}],
        call("now"),
    ],
)
def test_what_they_do_not_take_is_not(calls: Any) -> None:
    """Two tools that name a definition alike keep their own."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(calls, schema_of(conversation()))


def test_one_call_at_most() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([call("now")] * 2, schema_of(conversation(parallel_tool_calls=False)))


def test_a_named_call_is_its_arguments() -> None:
    assert schema_of(conversation(ToolChoice("named", "weather"))) == WEATHER
    assert schema_of(conversation(ToolChoice("named", "now")))["type"] == "object"


def read(text: str, cuts: list[int], made: Conversation, answer_format: ChosenFormat | None, end: str) -> list[Any]:
    plan = answer_plan(made, answer_format, end)
    assert plan.new_parser is not None
    parser = plan.new_parser()
    parts = []
    at = 0
    for size in cuts:
        parts += parser.push(text[at : at + size])
        at += size
    return joined([*parts, *parser.push(text[at:]), *parser.finish()])


arguments = st.dictionaries(
    st.text(max_size=3), st.none() | st.integers() | st.text() | st.lists(st.text()), max_size=3
)
cutting = st.lists(st.integers(1, 9), max_size=20)


@settings(deadline=None)  # a busy machine is no failure
@given(calls=st.lists(st.tuples(st.sampled_from(["tree", "now"]), arguments), min_size=1, max_size=3), cuts=cutting)
@pytest.mark.parametrize("thinks", [False, True])
def test_a_list_comes_out_as_its_calls(thinks: bool, calls: list[tuple[str, Any]], cuts: list[int]) -> None:
    text = json.dumps([{"name": name, "parameters": given} for name, given in calls])
    expected: list[Any] = []
    if thinks:
        text = f"hm [1]</think>\n\n{text}"
        expected.append(ReasoningText("hm [1]"))
    for place, (name, taken) in enumerate(calls):
        expected += [ToolCallBegin(place, name), ToolCallArguments(place, json.dumps(taken))]
    known, end = (REASONING, "<think>\n") if thinks else (None, "")
    assert read(text, cuts, conversation(), known, end) == expected


@settings(deadline=None)  # a busy machine is no failure
@given(given_arguments=arguments, cuts=cutting)
def test_named_arguments_come_out_whole(given_arguments: Any, cuts: list[int]) -> None:
    text = msgspec.json.encode(given_arguments).decode()
    parts = read(text, cuts, conversation(ToolChoice("named", "now")), None, "")
    assert parts == [ToolCallBegin(0, "now"), ToolCallArguments(0, text)]


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "now")])
def test_a_thought_that_was_cut_is_no_call(choice: ToolChoice) -> None:
    assert read("so I", [], conversation(choice), REASONING, "<think>\n") == [ReasoningText("so I")]


def test_what_is_no_call_after_all_is_told_as_it_is() -> None:
    assert read("I cannot", [], conversation(), None, "") == [ContentText("I cannot")]
    assert read("", [], conversation(ToolChoice("named", "now")), None, "") == []
