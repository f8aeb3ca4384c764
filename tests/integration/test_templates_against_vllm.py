"""The same conversations through vLLM's own renderer: the same prompts, but where one of its own loses words.

An integration test because importing vLLM takes seconds; it starts nothing.
"""

from __future__ import annotations

import copy
from functools import cache
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from conversation_kinds import KINDS
from inline_templates import InlineTemplates
from spoken_turns import said_by_client
from template_styles import SPECIAL_TOKENS, STYLES, source_of

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # vLLM brings its own

_MODEL: Any = SimpleNamespace(multimodal_config=None, enable_prompt_embeds=False)


async def ours(name: str, messages: list[dict[str, Any]]) -> str | None:
    sources = {"default": template_source(source_of(name))}
    template = ChatTemplate(sources, SPECIAL_TOKENS, InlineTemplates(), max_output_chars=100_000)
    try:
        return await template.render(messages)
    except InvalidInput:
        return None


@cache
def content_format(name: str) -> Any:
    from vllm.renderers import hf

    return hf._detect_content_format(source_of(name), default="string")


def vllms(name: str, messages: list[dict[str, Any]]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template
    from vllm.renderers import hf
    from vllm.renderers.chat_utils import parse_chat_messages

    given: Any = copy.deepcopy(messages)
    conversation, _, _ = parse_chat_messages(given, _MODEL, content_format(name))
    has_developer = any(message["role"] == "developer" for message in conversation)
    if has_developer and not hf._detect_developer_role_support(source_of(name)):
        conversation = hf._consolidate_system_messages(hf._convert_developer_to_system(conversation))
    turns: Any = [conversation]
    try:
        texts, _ = render_jinja_template(
            turns, chat_template=source_of(name), add_generation_prompt=True, **SPECIAL_TOKENS
        )
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError):
        return None
    text: str = texts[0]
    return text


def lost(text: str | None, kind: str) -> list[str]:
    """Words of the conversation that are not in the prompt."""
    turns = KINDS[kind]
    words = [word for turn in turns for word in turn.words]
    names = [call.name for turn in turns for call in turn.calls]
    cut_short = [call.text for turn in turns for call in turn.calls if isinstance(call.arguments, str)]
    return [word for word in (*words, *names, *cut_short) if word not in (text or "")]


def _without_breaks(text: str | None) -> str | None:
    """vLLM joins parts by line breaks where it does not see that a template loops over them."""
    return text and text.replace("\n", "")


@pytest.mark.parametrize("name", sorted(STYLES))
async def test_the_prompt_is_vllms_unless_vllms_has_lost_words(name: str) -> None:
    same = 0
    for kind, turns in KINDS.items():
        messages = said_by_client(turns)
        text, theirs = await ours(name, messages), vllms(name, messages)
        same += text == theirs
        assert text is not None or theirs is None, kind
        if text != theirs and _without_breaks(text) != _without_breaks(theirs):
            assert set(lost(text, kind)) < set(lost(theirs, kind)), kind
    assert same >= len(KINDS) // 2 or content_format(name) == "string" != STYLES[name].form("user")
