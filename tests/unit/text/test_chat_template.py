"""Chat templates: Hugging Face's conventions, and everything that may go wrong in one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from inline_templates import InlineTemplates

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput
from pilotlight_text.templates import jinja_template
from pilotlight_text.templates.chat_template import INLINE_BYTES, TEMPLATE_GLOBALS, ChatTemplate
from pilotlight_text.templates.known_templates import KNOWN_TEMPLATES
from pilotlight_text.templates.template_sources import (
    MAX_SOURCE_CHARS,
    special_tokens_of,
    template_source,
    template_sources,
)

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|' + message.role + '|>' + message.content + eos_token + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]


def chat(source: str = CHATML, *, limit: int = 10_000, **named: str) -> ChatTemplate:
    return ChatTemplate(
        {name: template_source(text) for name, text in {"default": source, **named}.items()},
        {"eos_token": "</s>", "bos_token": "<s>"},
        InlineTemplates(),
        max_output_chars=limit,
    )


async def test_a_conversation_with_and_without_the_generation_prompt() -> None:
    assert await chat().render(HELLO) == "<|user|>hello</s>\n<|assistant|>"
    assert await chat().render(HELLO, add_generation_prompt=False) == "<|user|>hello</s>\n"


async def test_the_last_message_is_continued_where_it_ends() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Once upon"}]
    text = await chat().render(messages, add_generation_prompt=False, continue_final_message=True)
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
async def test_conventions(source: str, options: dict[str, Any], text: str) -> None:
    assert await chat(source).render(HELLO, **options) == text


async def test_the_template_for_tools_is_taken_when_there_are_tools() -> None:
    both = chat("plain", tool_use="with tools")
    assert await both.render(HELLO) == "plain"
    assert await both.render(HELLO, tools=[{"name": "clock"}]) == "with tools"


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
async def test_refusals_are_the_clients_to_mend(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        await chat(source).render(HELLO, **options)


async def test_continuing_needs_text() -> None:
    with pytest.raises(InvalidInput, match="text content"):
        await chat().render([{"role": "assistant", "content": None}], continue_final_message=True)


async def test_output_is_bounded_while_it_is_made() -> None:
    with pytest.raises(ContextLengthExceeded, match="longer than 50 characters"):
        await chat("{% for i in range(99999) %}{{ i }}{% endfor %}", limit=50).render(HELLO)


async def test_a_model_without_a_template_says_where_to_go() -> None:
    with pytest.raises(InvalidInput, match="no chat template"):
        await ChatTemplate({}, {}, InlineTemplates(), max_output_chars=10).render(HELLO)


def test_where_templates_come_from() -> None:
    def texts(*given: Any) -> dict[str, str]:
        return {name: source.source for name, source in template_sources(*given).items()}

    named = {"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}
    assert texts({"chat_template": "a"}, None, {}) == {"default": "a"}
    assert texts(named, None, {"rag": "c"}) == {"default": "a", "tool_use": "b", "rag": "c"}
    assert texts(named, "file", {}) == {"default": "file", "tool_use": "b"}
    assert texts({}, None, {}) == {}


@pytest.mark.parametrize(
    "value",
    [7, {}, [1], [{"template": "a"}], [{"name": "a"}], "x" * (MAX_SOURCE_CHARS + 1)],
)
def test_what_is_no_template_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="template"):
        template_sources({"chat_template": value}, None, {})


NAMES = sorted({*TEMPLATE_GLOBALS, "self", "loop", "caller", "messages", "tools", "documents", "add_generation_prompt"})


@pytest.mark.parametrize("name", NAMES)
async def test_a_variable_takes_no_name_that_a_template_relies_on(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"must not set '{name}'"):
        await chat("x").render(HELLO, variables={name: 1})


@pytest.mark.parametrize("name", ["args", "context", "template", "root", "a b", "", "ümlaut", "__class__", "vars"])
async def test_any_other_name_is_a_variable(name: str) -> None:
    assert await chat("x{{ thinking }}").render(HELLO, variables={name: 1, "thinking": 2}) == "x2"


def test_the_reserved_globals_are_all_there_are() -> None:
    assert set(jinja_template.environment().globals) == set(TEMPLATE_GLOBALS)


async def test_what_cannot_be_written_as_json_is_the_clients_to_mend() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="cannot be given to a template"):
        await chat("x").render(HELLO, variables={"deep": deep})


def known_sources() -> dict[str, str]:
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(next(iter(package.submodule_search_locations))) / "transformers_utils" / "chat_templates"
    found = {name: (folder / f"template_{name}.jinja") for name in KNOWN_TEMPLATES if name != "demo"}
    config = json.loads((bundled_model_path("demo-awq") / "tokenizer_config.json").read_text())
    return {"demo": config["chat_template"], **{name: path.read_text() for name, path in found.items()}}


def test_known_templates_are_known_by_their_source() -> None:
    digests = {name: template_source(source).digest for name, source in known_sources().items()}
    assert digests == KNOWN_TEMPLATES


async def test_a_known_template_needs_a_worker_for_long_conversations_only() -> None:
    workers = InlineTemplates()
    for source in known_sources().values():
        template = ChatTemplate({"default": template_source(source)}, {}, workers, max_output_chars=1_000_000)
        assert not template.needs_worker
        variables = {"bos_token": "", "eos_token": ""}
        await template.render(HELLO, variables=variables)
        assert workers.rendered == 0
        await template.render([{"role": "user", "content": "x" * INLINE_BYTES}], variables=variables)
        assert workers.rendered == 1
        workers.rendered = 0
    changed = ChatTemplate(
        {"default": template_source(known_sources()["demo"] + " ")}, {}, workers, max_output_chars=99
    )
    assert changed.needs_worker


def test_special_tokens_are_plain_or_nested() -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "add_bos_token": True}
    assert special_tokens_of({"unk_token": "<unk>"}, config) == {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
