"""Wherever a stop string or the length ends a choice, no cut call looks like a whole one, streamed or not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import written_calls as written
from parts_reading import Function, maker

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.answer_parts.parts import PartsParser
from pilotlight_text.conversation.choice_reader import ChoiceReader
from pilotlight_text.conversation.choices import WholeChoice, extend
from pilotlight_text.conversation.conversation import Conversation, FunctionTool, ToolChoice
from pilotlight_text.conversation.forced_calls import schema_parser
from pilotlight_text.detokenization.text_stream import Piece

CALLS: list[written.Call] = [
    ("weather", {"city": "Oslo \N{GRINNING FACE}", "units": "}"}),
    ("clock", {}),
    ("weather", {"city": "a"}),
]
FORMATS = {
    **written.WRITERS,
    "mistral": written.mistral_list,
    "mistral named": written.mistral_named,
    "qwen3_coder": written.qwen_xml,
}
ENDS: list[tuple[Any, Any]] = [("length", None), ("stop", "###"), ("stop", 7)]


def conversation(mode: Any = "auto", *, parallel: bool = True) -> Conversation:
    choice = ToolChoice(mode, "weather" if mode == "named" else None)
    tools = (FunctionTool("weather"), FunctionTool("clock"))
    parameters = GenerationParameters(stop_token_ids=[7])
    return Conversation("m", [], parameters, tools, choice, parallel_tool_calls=parallel)


def read(parser: PartsParser, asked: Conversation, pieces: list[str], end: Any, stopped_by: Any) -> WholeChoice:
    reader = ChoiceReader(parser, asked)
    choices: dict[int, WholeChoice] = {}
    for text in pieces:
        extend(choices, reader.read(Piece(0, text)))
    extend(choices, reader.read(Piece(0, "", None, end, stopped_by)))
    return choices[0]


def ended(new_parser: Any, asked: Conversation, text: str, end: Any, stopped_by: Any) -> WholeChoice:
    """However it came."""
    whole = ChoiceReader(new_parser(), asked).whole(Piece(0, text, None, end, stopped_by))
    assert read(new_parser(), asked, [text], end, stopped_by) == whole
    assert read(new_parser(), asked, list(text), end, stopped_by) == whole
    return whole


def check(choice: WholeChoice, meant: list[written.Call], end: str) -> None:
    *before, last = [(call.name, call.arguments) for call in choice.calls] or [("", "")]
    told = [(name, json.loads(arguments)) for name, arguments in before]
    if choice.cuts_call:
        assert choice.finish_reason == end
        assert last[1], "a call without arguments looks like one that takes none"
        with pytest.raises(ValueError, match=r"."):
            json.loads(last[1])
    elif last[0]:
        told.append((last[0], json.loads(last[1])))
        assert choice.finish_reason == ("length" if end == "length" else "tool_calls")
    else:
        assert choice.finish_reason == end
    assert told == meant[: len(told)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("end", "stopped_by"), ENDS)
@pytest.mark.parametrize("parallel", [True, False])
def test_a_cut_call_is_none_of_the_whole_ones(name: str, end: str, stopped_by: Any, parallel: bool) -> None:
    text = FORMATS[name](CALLS)
    new_parser = maker(name.removesuffix(" named"), tools=(Function("weather"), Function("clock")))
    asked = conversation(parallel=parallel)
    ends = [ended(new_parser, asked, text[:at], end, stopped_by) for at in range(len(text) + 1)]
    for choice in ends:
        check(choice, CALLS[: None if parallel else 1], end)
    assert any(choice.cuts_call for choice in ends)
    assert not ends[-1].cuts_call


@pytest.mark.parametrize("mode", ["required", "named"])
@pytest.mark.parametrize(("end", "stopped_by"), ENDS)
def test_forced_calls_neither(mode: str, end: str, stopped_by: Any) -> None:
    asked = conversation(mode)
    arguments = CALLS[0][1]
    listed = [{"name": name, "parameters": given} for name, given in CALLS]
    text = json.dumps(arguments if mode == "named" else listed)
    for at in range(len(text) + 1):
        choice = ended(lambda: schema_parser(asked, None), asked, text[:at], end, stopped_by)
        if mode == "required":
            check(choice, CALLS, end)
        elif choice.calls and not choice.cuts_call:
            assert json.loads(choice.calls[0].arguments) == arguments


def test_a_model_that_ends_by_itself_has_called_whatever_it_wrote() -> None:
    choice = ended(maker("hermes"), conversation(), '<tool_call>{"name": "clock", "arguments": {"a": ', "stop", None)
    assert (choice.finish_reason, choice.calls[0].arguments) == ("tool_calls", '{"a": ')
    choice = ended(maker("hermes"), conversation(), '<tool_call>{"name": "clock", "arguments": ', "stop", 151645)
    assert (choice.finish_reason, choice.calls[0].arguments) == ("tool_calls", "")
