"""What probes find out about a template, and what a conversation then becomes: one trait at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from inline_templates import InlineTemplates

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.conversation_check import check_conversation
from pilotlight_text.templates.template_sources import template_source

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CUT = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Os'}}
ASKED: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
STRICT = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('Unexpected message role.') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
CHATML = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
ONE_SYSTEM = (
    "{% if messages[0].role == 'system' %}<<{{ messages[0].content }}>>{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System comes first.') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
_LINES = "{% for m in messages %}[{{ m.role }}] "
PARTS = (
    _LINES
    + "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{{ '\\n' }}{% endfor %}"
)
EITHER = (
    _LINES + "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{{ '\\n' }}{% endfor %}"
)
FIRST_PART = _LINES + "{{ m.content[0]['text'] }}\n{% endfor %}"


def chat(source: str, **named: str) -> ChatTemplate:
    sources = {name: template_source(text) for name, text in {"default": source, **named}.items()}
    return ChatTemplate(sources, {"eos_token": "</s>"}, InlineTemplates(), max_output_chars=10_000)


async def shown(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    return await chat(source).render(messages, **options)


WORDS: dict[str, Any] = {"role": "user", "content": "one"}
TWO_PARTS: dict[str, Any] = {
    "role": "user",
    "content": [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"],
}


@pytest.mark.parametrize(
    ("source", "one", "three"),
    [
        (CHATML, "[user] one\n", "[user] one\ntwo\nthree\n"),
        (PARTS, "[user] one\n", "[user] onetwothree\n"),
        (EITHER, "[user] one\n", "[user] (one)(two)(three)\n"),
        (FIRST_PART, "[user] one\n", "[user] one\ntwo\nthree\n"),
    ],
    ids=["text", "parts", "either", "one part"],
)
async def test_words_reach_the_prompt_however_they_are_sent(source: str, one: str, three: str) -> None:
    assert await shown(source, [WORDS]) == one
    assert await shown(source, [TWO_PARTS]) == three


async def test_a_role_may_want_what_another_does_not() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}|{% endfor %}"
    )
    messages = [WORDS, {"role": "tool", "content": [{"type": "text", "text": "rain"}]}]
    assert await shown(source, messages) == "one|rain|"


_CALLS = "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
AS_TEXT = _CALLS + "{{ c.function.name + c.function.arguments }}{% endfor %}{% endif %}{% endfor %}"
AS_OBJECT = _CALLS + "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{% endfor %}"
BY_KEY = (
    _CALLS + "{{ c.function.name }}{% for k, v in c.function.arguments.items() %}<{{ k }}={{ v }}>{% endfor %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
EITHER_WAY = (
    _CALLS + "{{ c.function.name }}{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "whole", "cut", "nothing"),
    [
        (AS_TEXT, 'weather{"city": "Oslo"}', 'weather{"city": "Os', "weather{}"),
        (AS_OBJECT, 'weather{"city": "Oslo"}', "weather{}", "weather{}"),
        (BY_KEY, "weather<city=Oslo>", "weather", "weather"),
        (EITHER_WAY, 'weather{"city": "Oslo"}', 'weather{"city": "Os', "weather{}"),
    ],
    ids=["text", "object", "by key", "either"],
)
async def test_arguments_as_the_template_reads_them(source: str, whole: str, cut: str, nothing: str) -> None:
    def asked(arguments: Any) -> list[dict[str, Any]]:
        call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
        return [ASKED[0], {"role": "assistant", "tool_calls": [call]}]

    assert await shown(source, asked('{"city": "Oslo"}')) == whole
    assert await shown(source, asked({"city": "Oslo"})) == whole
    assert await shown(source, asked('{"city": "Os')) == cut
    without: tuple[Any, ...] = ("", None, {}, "{}")
    for empty in without:
        assert await shown(source, asked(empty)) == nothing
    await shown(source, asked("[" * 1000))
    await shown(source, asked("[1]"))


IF_NONE = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{{ m.tool_calls[0].function.name }}|"
    "{% else %}{{ m.content }}|{% endif %}{% endfor %}"
)
CONCATENATED = "{% for m in messages %}{{ m.content + '|' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
CONCATENATED += "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
IF_ABSENT = (
    "{% for m in messages %}{% if m.content is defined %}{{ m.content }}|{% else %}{{ m.tool_calls[0].function.name }}"
    "{{ m.tool_calls[0].function.arguments }}|{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("content", [None, "", "absent"])
@pytest.mark.parametrize("source", [IF_NONE.replace("|{%", "{{ m.tool_calls[0].function.arguments | tojson }}|{%", 1),
                                    CONCATENATED, IF_ABSENT], ids=["none", "text", "absent"])  # fmt: skip
async def test_a_call_without_words_is_in_the_prompt(source: str, content: Any) -> None:
    turn = {**ASKED[1], "content": content}
    if content == "absent":
        del turn["content"]
    text = await shown(source, [ASKED[0], turn, ASKED[2]])
    assert "weather" in text
    assert "None" not in text


async def test_words_beside_a_call_that_hide_it_become_a_turn_of_their_own() -> None:
    source = IF_NONE.replace("|{%", "{{ m.tool_calls[0].function.arguments | tojson }}|{%", 1)
    text = await shown(source, [ASKED[0], {**ASKED[1], "content": "I look."}, ASKED[2]])
    assert text == 'Weather?|I look.|weather{"city": "Oslo"}|rain|'


async def test_ids_of_nine_characters_where_the_template_takes_no_others() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}#{{ c.id }}{% endfor %}"
        "{% if m.role == 'tool' %}#{{ m.tool_call_id }}{% endif %}{% endfor %}"
    )
    text = await shown(source, ASKED)
    made = text.rpartition("#")[2]
    assert text == 'weather{"city": "Oslo"}#' + made + "#" + made
    assert len(made) == 9
    nine = [ASKED[0], {**ASKED[1], "tool_calls": [{**CALL, "id": "abc123XYZ"}]}]
    assert (await shown(source, nine)).endswith("#abc123XYZ")


DEVELOPER = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": "Who?"}]


async def test_a_developer_stands_where_a_system_message_would_unless_the_template_knows_one() -> None:
    assert await shown(STRICT, DEVELOPER) == "[system] Be brief\n[user] Who?\n"
    assert await shown(CHATML, DEVELOPER) == "[system] Be brief\n[user] Who?\n"
    both = [{"role": "system", "content": "Rules."}, *DEVELOPER]
    assert await shown(CHATML, both) == "[system] Rules.\n\nBe brief\n[user] Who?\n"
    knows = CHATML.replace("[{{ m.role }}]", "{% if m.role == 'developer' %}#{% else %}[{{ m.role }}]{% endif %}")
    assert await shown(knows, DEVELOPER) == "# Be brief\n[user] Who?\n"


async def test_a_role_that_nobody_knows_is_the_templates_own_business() -> None:
    odd = [{"role": "critic", "content": "Hm"}]
    assert await shown(CHATML, odd) == "[critic] Hm\n"
    with pytest.raises(InvalidInput, match="Unexpected message role"):
        await shown(STRICT, odd)


async def test_system_messages_that_a_template_cannot_show_where_they_stand_are_put_first() -> None:
    later = [
        {"role": "system", "content": "A"},
        WORDS,
        {"role": "system", "content": [{"type": "text", "text": "B"}]},
    ]
    assert await shown(ONE_SYSTEM, later) == "<<A\n\nB>>[user] one\n"
    assert await shown(ONE_SYSTEM, later[1:]) == "<<B>>[user] one\n"
    assert await shown(CHATML, later) == "[system] A\n[user] one\n[system] B\n"


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("{{ tools[0].function.name }}{{ tools[0].type }}", "clockfunction"),
        ("{% for t in tools or [] %}{{ t.name }}{{ t.description }}{% endfor %}", "clock"),
        ("{{ messages[0].tools }}", '[{"name": "clock"}]'),
    ],
    ids=["wrapped", "bare", "system text"],
)
async def test_tools_in_the_shape_that_is_shown(source: str, seen: str) -> None:
    tools = [{"type": "function", "function": {"name": "clock", "description": None}}]
    assert await shown(source, [WORDS], tools=tools) == seen


async def test_what_templates_are_asked_about() -> None:
    template = chat(
        "{{ tools }}{% for d in documents or [] %}{{ d.text }}{% endfor %}{% if add_generation_prompt %}<a>"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}",
        rag="{{ documents }}",
    )
    traits = await template.traits()
    assert (traits.shows_tools, traits.shows_documents, traits.switches) == (True, True, ("enable_thinking",))
    assert traits.generation_prompt == "<a>"
    assert not (await chat(CHATML).traits()).shows_tools
    assert await template.render([WORDS], documents=[{"text": "x"}]) == "[{'text': 'x'}]"


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
async def test_an_effort_of_none_turns_thinking_off_and_any_other_on(switch: str) -> None:
    source = "{{ " + switch + " }} {{ reasoning_effort }}"
    assert await shown(source, [WORDS], reasoning_effort="none") == "False none"
    assert await shown(source, [WORDS], reasoning_effort="high") == "True high"
    assert await shown(source, [WORDS], reasoning_effort="high", variables={switch: False}) == "False high"
    assert await shown(source, [WORDS]) == " "


async def test_keys_without_a_value_are_not_there() -> None:
    message: dict[str, Any] = {
        "role": "user",
        "content": "x",
        "name": None,
        "tool_calls": [],
        "refusal": None,
        "note": "",
    }
    assert json.loads(await shown("{{ messages[0] | tojson }}", [message])) == {"role": "user", "content": "x"}


async def test_reasoning_has_the_names_that_templates_know() -> None:
    for key in ("reasoning", "reasoning_content"):
        message = {"role": "assistant", "content": "x", key: "hm"}
        assert await shown("{{ messages[0].reasoning }} {{ messages[0].reasoning_content }}", [message]) == "hm hm"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
async def test_a_part_that_is_no_text_is_refused_by_name(kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {}}]}
    with pytest.raises(InvalidInput, match=rf"'messages\[0\].content\[1\]' is of type '{kind}'") as caught:
        await shown(PARTS, [message])
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": 1, "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [3]}, "messages[0].content[0]"),
        ({"role": "assistant", "tool_calls": "x"}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": False}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": True}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[0].tool_calls[0].function.name"),
    ],
)
def test_bad_messages(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_conversation([message])
    assert caught.value.param == param


def test_the_characters_of_a_conversation() -> None:
    assert check_conversation([WORDS, TWO_PARTS, *ASKED]) == 3 + 11 + 8 + len('weather{"city": "Oslo"}') + 4


TRIMS = "{% for m in messages %}[{{ m.content | trim }}]\n{% endfor %}"


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        (CHATML, "Once ", "[user] one\n[assistant] Once "),
        (TRIMS, "Once ", "[one]\n[Once"),
        (PARTS, "Once ", "[user] one\n[assistant] Once "),
        (PARTS, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "[user] one\n[assistant] ab"),
        (EITHER, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "[user] one\n[assistant] (a)(b"),
        (CHATML, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "[user] one\n[assistant] a\nb"),
    ],
    ids=["text", "trimmed", "parts", "two parts", "either", "joined"],
)
async def test_a_final_message_goes_on_where_it_ends(source: str, content: Any, text: str) -> None:
    messages = [WORDS, {"role": "assistant", "content": content}]
    assert await shown(source, messages, add_generation_prompt=False, continue_final_message=True) == text


async def test_a_final_message_that_is_not_shown_whole_cannot_go_on() -> None:
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    messages = [WORDS, {"role": "assistant", "content": "<think>hm</think>Once"}]
    with pytest.raises(InvalidInput, match="does not show the last message"):
        await shown(source, messages, add_generation_prompt=False, continue_final_message=True)
