"""What the engine is held to accepts what may come and nothing else, by the compiler that vLLM uses (xgrammar)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.parts import ToolCallBegin
from pilotlight_text.conversation.answer_plan import answer_plan
from pilotlight_text.conversation.conversation import Conversation, FunctionTool, ToolChoice

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "day": {"$ref": "#/$defs/Day"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"Day": {"enum": ["today", "tomorrow"]}},
}
STRICT = FunctionTool("weather", None, WEATHER, strict=True)
NOW = FunctionTool("now")
HERMES = ChosenFormat("hermes", None)
THINKS = ChosenFormat("hermes", "qwen3")
OPEN, UNSAID, CLOSED = "assistant\n<think>\n", "assistant\n", "<think>\n\n</think>\n\n"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "day": "today"}}\n</tool_call>'
BAD_CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>'
NOW_CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
LISTED = '[{"name": "weather", "parameters": {"city": "Oslo"}}]'
CHOICE = StructuredOutputs(choice=["a.b", "c"])


def asked(mode: Any, name: str | None = None, *tools: FunctionTool, **fields: Any) -> Conversation:
    outputs = fields.pop("outputs", None)
    parameters = GenerationParameters(structured_outputs=outputs)
    return Conversation("m", [], parameters, tools=tools or (STRICT, NOW), tool_choice=ToolChoice(mode, name), **fields)


@cache
def compiler() -> Any:
    import xgrammar

    letters = [bytes([byte]) for byte in range(256)]
    info = xgrammar.TokenizerInfo(
        [*letters, b"<end>"], vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[len(letters)]
    )
    return xgrammar.GrammarCompiler(info, max_threads=1)


def accepts(outputs: StructuredOutputs | None, text: str) -> bool:
    import xgrammar

    assert outputs is not None
    kind, written = outputs.constraint
    if kind == "structural_tag":
        grammar = compiler().compile_structural_tag(json.loads(written))
    else:
        assert kind == "json"
        grammar = compiler().compile_json_schema(written, any_whitespace=not outputs.disable_any_whitespace)
    matcher = xgrammar.GrammarMatcher(grammar)
    return bool(matcher.accept_string(text) and matcher.accept_token(256))


@pytest.mark.parametrize(
    ("conversation", "known", "end", "yes", "no"),
    [
        (asked("required"), None, "", [LISTED], ["", "[]", LISTED.replace("city", "town"), "hi", CALL]),
        (asked("required", parallel_tool_calls=False), None, "", [LISTED], [f"{LISTED[:-1]}, {LISTED[1:]}"]),
        (asked("named", "weather"), None, "", ['{"city": "Oslo"}'], ["{}", LISTED]),
        (asked("required"), HERMES, "", [CALL, f"{CALL}\n{NOW_CALL}"], ["", "hi", BAD_CALL, LISTED, f"hi{CALL}"]),
        (asked("required", parallel_tool_calls=False), HERMES, "", [CALL], [f"{CALL}\n{NOW_CALL}"]),
        (asked("named", "now"), HERMES, "", [NOW_CALL], [CALL, f"{NOW_CALL}\n{NOW_CALL}"]),
        (asked("required"), THINKS, OPEN, [f"hm</think>\n\n{CALL}"], [CALL, f"hm</think>{BAD_CALL}"]),
        (asked("required"), THINKS, UNSAID, [CALL, f"<think>hm</think>\n{CALL}"], [f"hm</think>{CALL}"]),
        (asked("required"), THINKS, CLOSED, [CALL], [f"<think>hm</think>\n{CALL}"]),
        (asked("required"), ChosenFormat(None, "qwen3"), OPEN, [f"hm</think>\n\n{LISTED}"], [LISTED]),
        (asked("auto"), HERMES, "", ["hi", CALL, f"hi {CALL} ho", NOW_CALL], [BAD_CALL, f"hi {BAD_CALL}"]),
        (asked("auto", outputs=CHOICE), HERMES, "", ["a.b", "c", CALL], ["axb", "hi", f"c{CALL}"]),
        (asked("none", outputs=CHOICE), THINKS, OPEN, ["hm</think>\n\nc"], ["c"]),
    ],
)
def test_what_is_accepted(
    conversation: Conversation, known: ChosenFormat | None, end: str, yes: list[str], no: list[str]
) -> None:
    outputs = answer_plan(conversation, known, end).outputs
    assert [text for text in yes if not accepts(outputs, text)] == []
    assert [text for text in no if accepts(outputs, text)] == []


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (StructuredOutputs(json={"type": "integer"}), "7"),
        (StructuredOutputs(json_object=True), '{"a": 1}'),
        (StructuredOutputs(regex="[ab]+c"), "abc"),
        (StructuredOutputs(grammar='root ::= "x" | "y"'), "y"),
        (
            StructuredOutputs(structural_tag='{"type":"structural_tag","format":{"type":"const_string","value":"k"}}'),
            "k",
        ),
    ],
)
def test_every_format_comes_behind_the_reasoning(outputs: StructuredOutputs, text: str) -> None:
    held = answer_plan(asked("none", outputs=outputs), THINKS, OPEN).outputs
    assert accepts(held, f"hm</think>\n\n{text}")
    assert not accepts(held, text)


def test_whitespace_in_a_call_has_an_end() -> None:
    """Or a small model writes nothing else until its length ends it."""
    for conversation in (asked("required"), asked("named", "weather"), asked("auto")):
        outputs = answer_plan(conversation, HERMES, "").outputs
        assert accepts(outputs, CALL.replace('"city"', ' "city"'))
        assert not accepts(outputs, CALL.replace('"city"', '     "city"'))


def test_a_constraint_stays_as_it_is_where_nothing_comes_before_it() -> None:
    for known, end in ((None, OPEN), (HERMES, OPEN), (THINKS, CLOSED)):
        plan = answer_plan(asked("none", outputs=CHOICE), known, end)
        assert plan.outputs is CHOICE
        assert plan.new_parser is None


def test_marks_that_no_grammar_can_ask_for_are_not_asked_for() -> None:
    known = ChosenFormat("hermes", "qwen3", lambda: frozenset({"<think>", "<tool_call>"}))
    plan = answer_plan(asked("required"), known, OPEN)
    assert accepts(plan.outputs, LISTED)
    assert plan.new_parser is not None
    assert isinstance(plan.new_parser().push(LISTED)[0], ToolCallBegin)


@pytest.mark.parametrize(
    ("conversation", "known", "param"),
    [
        (asked("auto"), None, "tools"),
        (asked("auto"), ChosenFormat(None, "qwen3"), "tools"),
        (asked("auto", outputs=CHOICE), ChosenFormat("llama3_json", None), "tools"),
        (asked("required", outputs=CHOICE), HERMES, "tool_choice"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    conversation: Conversation, known: ChosenFormat | None, param: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        answer_plan(conversation, known, "")
    assert caught.value.param == param


def test_strict_is_held_to_or_known_to_be_loose() -> None:
    assert answer_plan(asked("auto", None, NOW), HERMES, "").outputs is None
    assert answer_plan(asked("auto"), ChosenFormat("llama3_json", None), "").loose_strict
    assert not answer_plan(asked("auto"), HERMES, "").loose_strict
