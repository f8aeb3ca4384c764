"""What a model meant by its calls is what is read, whatever they say and in whatever pieces they come."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import written_calls as written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts_reading import Function, maker, read, short

from pilotlight_text.answer_parts.format_names import CALLS, REASONING
from pilotlight_text.answer_parts.scripted_parser import ScriptedParser

ANY = written.calls(written.values(written.texts("<|")))
CUTS = st.lists(st.floats(0, 1), max_size=8)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def said(parts) -> list[written.Call]:
    return [(name, json.loads(arguments)) for name, arguments in short(parts)]


def pieces(text: str, cuts: list[float]) -> list[str]:
    places = sorted({0, len(text), *(round(cut * len(text)) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("name", written.WRITERS)
@given(calls=ANY, cuts=CUTS)
@quick
def test_calls(name, calls, cuts) -> None:
    text = written.WRITERS[name](calls)
    whole = read(maker(name), [text])
    assert said(whole) == calls
    assert read(maker(name), pieces(text, cuts)) == whole
    assert read(maker(name), list(text)) == whole


@given(calls=ANY, cuts=CUTS)
@quick
def test_mistrals_two_ways(calls, cuts) -> None:
    for write in (written.mistral_list, written.mistral_named):
        text = write(calls)
        assert said(read(maker("mistral"), [text])) == said(read(maker("mistral"), pieces(text, cuts))) == calls


@given(calls=written.calls(written.texts("<parameter", "</parameter>", "</function>")), cuts=CUTS)
@quick
def test_qwens_tags(calls, cuts) -> None:
    text = written.qwen_xml(calls)
    make = maker("qwen3_coder", tools=(Function("f"),))
    assert said(read(make, [text])) == said(read(make, pieces(text, cuts))) == calls


MARKS = (
    *("<tool_call>", "</tool_call>", "<function=f>", "<parameter=a>", "</parameter>", "</function>", "<|python_tag|>"),
    *("<|tool_call|>", "functools", "[TOOL_CALLS]", "[ARGS]", "```json"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *("<|channel|>analysis", "<|channel|>final", " to=functions.f", "<|message|>", "<|end|>", "<|start|>assistant"),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "Here is my thought process:"),
)
SHREDS = (
    *('{"name": "f", ', '"arguments": ', '"parameters": ', '{"a": 1}', "f(a=", "f()", "'x'", "word", "null", "é", "1"),
    *("}", "[", "]", ",", ";", "\n", " ", '"', "\\", ")", "(", "{", ":", "<", "|"),
)
SHREDDED = st.lists(st.sampled_from(MARKS + SHREDS), max_size=14).map("".join)


@pytest.mark.parametrize("name", sorted(set(CALLS)))
@given(text=SHREDDED, cuts=CUTS)
@quick
def test_any_text_is_read_the_same_in_any_pieces_and_none_of_it_is_lost(name, text, cuts) -> None:
    make = maker(name, "openai_gptoss" if name == "openai" else None)
    whole = read(make, [text])
    assert read(make, pieces(text, cuts)) == whole
    assert read(make, list(text)) == whole
    parts = short(whole)
    if name != "openai" and all(kind == "content" for kind, _ in parts):
        assert "".join(text for _, text in parts) == text


LONGEST_HELD = 600
"""A short string of JSON, its quotes and a token."""


@pytest.mark.parametrize("name", sorted(set(CALLS)))
@given(text=SHREDDED, unit=st.sampled_from(MARKS + SHREDS))
@settings(quick, max_examples=25)
def test_no_more_is_held_back_than_a_mark_or_a_name(name, text, unit) -> None:
    parser = maker(name, "openai_gptoss" if name == "openai" else None)()
    assert isinstance(parser, ScriptedParser)
    for piece in [*text, *([unit] * (2000 // len(unit)))]:
        parser.push(piece)
        reader = parser._reader
        assert len(reader.text) - reader.at <= LONGEST_HELD


@pytest.mark.parametrize("name", sorted(set(REASONING)))
@given(text=SHREDDED, cuts=CUTS)
@quick
def test_any_text_with_reasoning(name, text, cuts) -> None:
    for make in (maker(None, name), maker("hermes", name)):
        whole = read(make, [text])
        assert read(make, pieces(text, cuts)) == whole
        assert read(make, list(text)) == whole
