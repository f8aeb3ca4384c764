"""Conversations as clients send them, against transformers' renderer given what each family's template wants."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import jinja2
import pytest
from conversation_kinds import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_templates import InlineTemplates
from spoken_turns import Turn, conversations, native, said_by_client
from template_styles import FOLDER, SPECIAL_TOKENS, STYLES, Style, source_of

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
DOCUMENTS = [{"doc_id": 1, "title": "Oslo", "text": "It rains."}]
NAMES = sorted(STYLES)


@cache
def ours(name: str) -> ChatTemplate:
    sources = {"default": template_source(source_of(name))}
    return ChatTemplate(sources, SPECIAL_TOKENS, InlineTemplates(), max_output_chars=100_000)


def rendered(name: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """None: refused."""
    try:
        return asyncio.run(ours(name).render(messages, **options))
    except InvalidInput:
        return None


def expected(name: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    given_it = {"add_generation_prompt": True, **options, **SPECIAL_TOKENS}
    try:
        texts, _ = render_jinja_template([messages], chat_template=source_of(name), **given_it)
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError):
        return None
    text: str = texts[0]
    return text


def test_every_style_is_told_of() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.jinja")) == NAMES
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_probes_find_what_a_reader_finds(name: str) -> None:
    style, traits = STYLES[name], asyncio.run(ours(name).traits())
    assert {role: traits.content[role] for role in traits.content} == {
        role: style.form(role) for role in ("user", "assistant", "system", "tool")
    }
    found = Style(
        style.content,
        traits.arguments if traits.shows_calls else "",
        traits.splits_calls and traits.call_content == ("null",),
        traits.call_ids == "nine",
        traits.developer_role,
        traits.system_places,
        traits.tools,
        traits.shows_documents,
        traits.switches,
    )
    assert found == style


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_however_it_is_written(name: str, kind: str) -> None:
    text = expected(name, native(KINDS[kind], STYLES[name]))
    for silence in (None, "", "absent"):
        assert rendered(name, said_by_client(KINDS[kind], silence=silence)) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_word_of_a_call_is_lost_where_the_template_shows_calls(name: str) -> None:
    if not STYLES[name].calls:
        return
    text = rendered(name, said_by_client(KINDS["a call"]))
    assert text is not None
    assert "Oslo" in text
    assert "rain" in text


@pytest.mark.parametrize("name", NAMES)
def test_tools_documents_and_switches(name: str) -> None:
    style = STYLES[name]
    messages = native(KINDS["system"], style)
    bare = [tool["function"] for tool in TOOLS]
    given_tools = bare if style.tools == "bare" else TOOLS
    with_tools = messages
    if style.tools == "system text":
        with_tools = [{**messages[0], "tools": json.dumps(bare)}, *messages[1:]]
    said = said_by_client(KINDS["system"])
    assert rendered(name, said, tools=TOOLS) == expected(name, with_tools, tools=given_tools)
    assert rendered(name, said, documents=DOCUMENTS) == expected(name, messages, documents=DOCUMENTS)
    for switch in ("enable_thinking", "thinking"):
        for value in (True, False):
            variables = {switch: value}
            assert rendered(name, said, variables=variables) == expected(name, messages, **variables)
    said, messages = said_by_client(KINDS["plain"]), native(KINDS["plain"], style)
    effort = expected(name, messages, reasoning_effort="low", enable_thinking=True, thinking=True)
    assert rendered(name, said, reasoning_effort="low") == effort
    for adds in (True, False):
        assert rendered(name, said, add_generation_prompt=adds) == expected(name, messages, add_generation_prompt=adds)


@pytest.mark.parametrize("content", ["Once ", "Once upon", ["Once", "upon a "]])
@pytest.mark.parametrize("name", NAMES)
def test_a_final_message_to_go_on(name: str, content: Any) -> None:
    words = (content,) if isinstance(content, str) else tuple(content)
    turns = [Turn("user", ("Tell me.",)), Turn("assistant", words)]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    text = rendered(name, said_by_client(turns), **options)
    assert text == expected(name, native(turns, STYLES[name]), **options)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(turns=conversations(), as_parts=st.booleans(), silence=st.sampled_from([None, "", "absent"]))
def test_any_conversation(name: str, turns: list[Turn], as_parts: bool, silence: Any) -> None:
    written = native(turns, STYLES[name])
    if as_parts and STYLES[name].form("user") == "either":
        return  # one part is written as one part there, which these templates may frame otherwise
    assert rendered(name, said_by_client(turns, as_parts=as_parts, silence=silence)) == expected(name, written)
