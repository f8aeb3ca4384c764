"""No word that a client sends is lost in silence: it is in the prompt, or refused, or named as one that is not in it.

Whatever the template, and in whatever field it comes.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
from inline_templates import InlineTemplates
from template_styles import SPECIAL_TOKENS, STYLES, source_of

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.templates.template_traits import TemplateTraits

WORD = "Hjortefjell"
USER: dict[str, Any] = {"role": "user", "content": "Hi."}
SAID: dict[str, Any] = {"role": "assistant", "content": "Ho."}
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": f'{{"a": "{WORD}"}}'}}],
}
OLDER: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": "f", "arguments": f'{{"a": "{WORD}"}}'},
}
EMPTY = {**OLDER, "function_call": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": WORD, "parameters": {"type": "object", "properties": {}}}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "x"}

FIELDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "system": ([{"role": "system", "content": WORD}, USER], {}, "messages[0].content"),
    "developer": ([{"role": "developer", "content": WORD}, USER], {}, "messages[0].content"),
    "parts": ([{"role": "system", "content": [{"type": "text", "text": WORD}]}, USER], {}, "messages[0].content"),
    "tool": ([USER, CALLED, {**RESULT, "content": WORD}], {}, "messages[2].content"),
    "another role": ([USER, SAID, {"role": "critic", "content": WORD}], {}, "messages[2].content"),
    "calls": ([USER, CALLED, RESULT], {}, "messages.tool_calls"),
    "older calls": ([USER, OLDER, {"role": "function", "name": "f", "content": "x"}], {}, "messages.tool_calls"),
    "older results": ([USER, EMPTY, {"role": "function", "name": "f", "content": WORD}], {}, "messages[2].content"),
    "refusal": ([USER, {"role": "assistant", "content": None, "refusal": WORD}, USER], {}, "messages[1].content"),
    "refusal beside": ([USER, {**SAID, "refusal": WORD}, USER], {}, "messages[1].content"),
    "name": ([{**USER, "name": WORD}], {}, "messages.name"),
    "reasoning": ([USER, {**SAID, "reasoning": WORD}, USER], {}, "messages.reasoning"),
    "reasoning_content": ([USER, {**SAID, "reasoning_content": WORD}, USER], {}, "messages.reasoning_content"),
    "tools": ([USER], {"tools": [TOOL]}, "tools"),
    "documents": ([USER], {"documents": [{"doc_id": "1", "title": "t", "text": WORD}]}, "documents"),
    "variables": ([USER], {"variables": {"wordy": WORD}}, "chat_template_kwargs.wordy"),
    "another key": ([{**USER, "wordy": WORD}], {}, "messages.wordy"),
    "audio": ([USER, {**SAID, "audio": {"id": WORD}}, USER], {}, ""),
    "both": ([USER, {**CALLED, "function_call": {"name": WORD}}, RESULT], {}, ""),
}


@cache
def template(style: str) -> ChatTemplate:
    sources = {"default": template_source(source_of(style))}
    return ChatTemplate(sources, SPECIAL_TOKENS, InlineTemplates(), max_output_chars=100_000)


async def told(style: str, messages: list[dict[str, Any]], given: dict[str, Any]) -> tuple[str, list[str]] | None:
    """The prompt and the fields that are not in it; None: refused."""
    try:
        text = await template(style).render(messages, **given)
    except InvalidInput:
        return None
    asked = {name: bool(value) for name, value in given.items() if name != "variables"}
    return text, await template(style).unseen(messages, text, **asked, variables=given.get("variables", {}))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_word_is_shown_refused_or_named(style: str, field: str) -> None:
    messages, given, name = FIELDS[field]
    answered = asyncio.run(told(style, messages, given))
    if not name or answered is None:
        assert answered is None, "refused by name"
        return
    text, unseen = answered
    traits: TemplateTraits = asyncio.run(template(style).traits())
    shown = WORD in text or (field.startswith("reasoning") and traits.shows_reasoning)
    assert (name in unseen) is not shown


def test_most_styles_show_most_of_it() -> None:
    """The test above would hold, too, if everything was refused."""
    for field, least in (("system", 30), ("older calls", 20), ("older results", 20), ("refusal", 40), ("tools", 8)):
        messages, given, _ = FIELDS[field]
        answered = [asyncio.run(told(style, messages, given)) for style in STYLES]
        assert len([one for one in answered if one is not None and WORD in one[0]]) >= least, field


def test_a_key_that_the_template_reads_is_not_named() -> None:
    said = "{{ m.role }}: {{ m.get('tone') }}{{ m['mood'] }}{{ m.mind }}{{ m.content }}"
    source = "{% for m in messages %}" + said + "{% endfor %}"
    reads = ChatTemplate({"default": template_source(source)}, {}, InlineTemplates(), max_output_chars=1000)
    messages = [{**USER, "tone": "a", "mood": "b", "mind": "c", "wordy": "d", "empty": None, "annotations": ["x"]}]

    async def unseen() -> list[str]:
        return await reads.unseen(messages, await reads.render(messages))

    assert asyncio.run(unseen()) == ["messages.wordy"]


@pytest.mark.parametrize("style", sorted(STYLES))
def test_the_older_way_is_the_same_prompt(style: str) -> None:
    """Ids are the client's own in one of them."""
    call = {**CALLED["tool_calls"][0], "id": "call_1"}
    older = [USER, OLDER, {"role": "function", "name": "f", "content": "x"}, SAID, USER]
    todays = [USER, {**CALLED, "tool_calls": [call]}, {**RESULT, "name": "f"}, SAID, USER]
    assert asyncio.run(told(style, older, {})) == asyncio.run(told(style, todays, {}))


@pytest.mark.parametrize("style", sorted(STYLES))
def test_an_effort_is_read_or_named(style: str) -> None:
    async def texts() -> tuple[set[str], list[str]]:
        efforts = [await template(style).render([USER], reasoning_effort=one) for one in ("none", "low", "high")]
        return set(efforts), await template(style).unseen([USER], efforts[0], reasoning_effort=True)

    different, unseen = asyncio.run(texts())
    assert unseen == ([] if len(different) > 1 else ["reasoning_effort"])


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "assistant", "function_call": "f"}, "messages[0].function_call.name"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, "messages[0].function_call.name"),
        ({"role": "user", "content": "x", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({**CALLED, "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "assistant", "refusal": 1}, "messages[0].refusal"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(template("chatml").render([message]))
    assert caught.value.param == param
