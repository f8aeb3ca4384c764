"""Chat templates: Hugging Face's conventions, and everything that may go wrong in one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_text.tokenization.chat_template import ChatTemplate, special_tokens_of, template_sources

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|' + message.role + '|>' + message.content + eos_token + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]


def chat(source: str = CHATML, *, limit: int = 10_000, **named: str) -> ChatTemplate:
    return ChatTemplate(
        {"default": source, **named},
        {"eos_token": "</s>", "bos_token": "<s>"},
        max_output_chars=limit,
        now=lambda: datetime(2026, 11, 22),
    )


def test_a_conversation_with_and_without_the_generation_prompt() -> None:
    assert chat().render(HELLO) == "<|user|>hello</s>\n<|assistant|>"
    assert chat().render(HELLO, add_generation_prompt=False) == "<|user|>hello</s>\n"


def test_the_last_message_is_continued_where_it_ends() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    text = chat().render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == "<|user|>hello</s>\n<|assistant|>Once upon"


CONVENTIONS: list[tuple[str, str, dict[str, Any], str]] = [
    ("tojson keeps characters", "{{ messages | tojson }}", {}, '[{"role": "user", "content": "hello"}]'),
    ("tojson indents", "{{ {'a': '<é>'} | tojson(indent=1) }}", {}, '{\n "a": "<é>"\n}'),
    ("strftime_now", "{{ strftime_now('%d %b %Y') }}", {}, "22 Nov 2026"),
    ("loop controls", "{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", {}, "1"),
    ("generation blocks", "{% generation %}{{ bos_token }}{% endgeneration %}", {}, "<s>"),
    ("own variables", "{{ thinking }}", {"variables": {"thinking": False}}, "False"),
    ("tools are passed", "{{ tools[0].name }}", {"tools": [{"name": "clock"}]}, "clock"),
    ("blocks are trimmed", "{% if true %}\n  x\n{% endif %}\n", {}, "  x\n"),
]


@pytest.mark.parametrize(
    ("source", "options", "text"), [case[1:] for case in CONVENTIONS], ids=[case[0] for case in CONVENTIONS]
)
def test_conventions(source: str, options: dict[str, Any], text: str) -> None:
    assert chat(source).render(HELLO, **options) == text


def test_the_template_for_tools_is_taken_when_there_are_tools() -> None:
    both = chat("plain", tool_use="with tools")
    assert both.render(HELLO) == "plain"
    assert both.render(HELLO, tools=[{"name": "clock"}]) == "with tools"


REFUSALS: list[tuple[str, str, dict[str, Any], str]] = [
    ("raise_exception", "{{ raise_exception('roles must alternate') }}", {}, "roles must alternate"),
    ("a type error", "{{ messages[0].content + 1 }}", {}, "cannot render"),
    ("the sandbox", "{{ messages.__class__.__mro__ }}", {}, "refused"),
    ("changing a message", "{{ messages.append(1) }}", {}, "refused"),
    ("reserved variables", "x", {"variables": {"messages": []}}, "must not set 'messages'"),
    ("special tokens", "x", {"variables": {"bos_token": ""}}, "must not set 'bos_token'"),
    ("nothing to continue", "x", {"continue_final_message": True}, "does not show the last message"),
]


@pytest.mark.parametrize(
    ("source", "options", "message"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refusals_are_the_clients_to_mend(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        chat(source).render(HELLO, **options)


def test_continuing_needs_text() -> None:
    with pytest.raises(InvalidInput, match="text content"):
        chat().render([{"role": "assistant", "content": None}], continue_final_message=True)


def test_output_is_bounded_while_it_is_made() -> None:
    with pytest.raises(PayloadTooLarge, match="longer than 50 characters"):
        chat("{% for i in range(99999) %}{{ i }}{% endfor %}", limit=50).render(HELLO)


def test_a_model_without_a_template_says_where_to_go() -> None:
    with pytest.raises(InvalidInput, match="no chat template"):
        ChatTemplate({}, {}, max_output_chars=10).render(HELLO)


def test_a_broken_template_stops_the_server() -> None:
    with pytest.raises(ValueError, match="does not compile"):
        chat("{% if %}")


def test_where_templates_come_from() -> None:
    named = {"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}
    assert template_sources({"chat_template": "a"}, None, {}) == {"default": "a"}
    assert template_sources(named, None, {"rag": "c"}) == {"default": "a", "tool_use": "b", "rag": "c"}
    assert template_sources(named, "file", {}) == {"default": "file", "tool_use": "b"}
    assert template_sources({}, None, {}) == {}


def test_special_tokens_are_plain_or_nested() -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "add_bos_token": True}
    assert special_tokens_of({"unk_token": "<unk>"}, config) == {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
