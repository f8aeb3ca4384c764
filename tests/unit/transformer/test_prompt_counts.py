"""/tokenize, count_tokens and input_tokens count the tokens that an answer to the same words has in its prompt.

Whatever the template, and whatever changes a prompt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from conversation_kinds import KINDS
from fake_token_source import FakeTokenSource
from inline_templates import InlineTemplates
from marked_answers import MarkedFormat
from spoken_turns import said_by_client
from template_styles import SPECIAL_TOKENS, STYLES, source_of
from text_app import TextApp, demo_text

from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.templates.template_sources import template_source

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ("weather", "clock")
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"parameters": SCHEMA, "name": name, "strict": False, "description": None}}
    for name in NAMES
]
FLAT_TOOLS = [{"input_schema": SCHEMA, "name": name, "strict": False} for name in NAMES]
ONE_ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]},
}
CHAT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tools": {"tools": TOOLS, "tool_choice": "required"},
    "tools that need no call": {"tools": TOOLS, "tool_choice": "none"},
    "tools without parameters": {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "none"},
    "one of the tools": {"tools": TOOLS, "tool_choice": ONE_ALLOWED},
    "documents": {"documents": [{"title": "Oslo", "text": "It rains."}]},
    "effort": {"reasoning_effort": "low"},
    "no effort": {"reasoning_effort": "none"},
    "variables": {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}},
    "special tokens": {"add_special_tokens": True},
    "no generation prompt": {"add_generation_prompt": False},
}
MESSAGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "system": {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]},
    "tools": {"tools": FLAT_TOOLS, "tool_choice": {"type": "any"}},
    "tools that need no call": {"tools": FLAT_TOOLS, "tool_choice": {"type": "none"}},
    "no thinking": {"thinking": {"type": "disabled"}},
    "effort": {"output_config": {"effort": "high"}},
    "variables": {"chat_template_kwargs": {"enable_thinking": False}},
    "a beginning": {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho"}]},
}


def app_of(style: str) -> TextApp:
    template = ChatTemplate(
        {"default": template_source(source_of(style))}, SPECIAL_TOKENS, InlineTemplates(), max_output_chars=100_000
    )
    app = TextApp(FakeTokenSource())
    app.model._model.set_loaded(replace(demo_text(), template=template, answer_format=MarkedFormat()))
    return app


async def _counts_agree(app: TextApp, messages: list[dict[str, Any]], fields: dict[str, Any]) -> bool:
    asked = {"model": "demo", "messages": messages, **fields}
    chat, counted = await app.post("/v1/chat/completions", asked), await app.post("/tokenize", asked)
    if chat.status_code != 200:
        assert "maximum context length" in chat.text or counted.status_code == chat.status_code, counted.text
        return False
    assert counted.status_code == 200, counted.text
    assert "x-pilotlight-ignored-fields" not in counted.headers or "x-pilotlight-ignored-fields" in chat.headers
    assert counted.json()["tokens"] == app.source.asked[-1].input_ids
    assert counted.json()["count"] == chat.json()["usage"]["prompt_tokens"]
    return True


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_conversation_has_the_tokens_of_a_chat(style: str) -> None:
    async def counted() -> list[bool]:
        app = app_of(style)
        kinds = [said_by_client(turns) for turns in KINDS.values()]
        ways = [(kinds[0], fields) for fields in CHAT.values()]
        ways += [(messages, fields) for messages in kinds for fields in (CHAT["nothing"], CHAT["tools"])]
        open_end = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho"}]
        ways.append((open_end, {"continue_final_message": True, "add_generation_prompt": False}))
        return [await _counts_agree(app, messages, fields) for messages, fields in ways]

    answered = asyncio.run(counted())
    assert sum(answered) > 8, "the others are refused"


@pytest.mark.parametrize("style", sorted(STYLES))
def test_count_tokens_has_those_of_a_message(style: str) -> None:
    async def counted() -> None:
        app = app_of(style)
        for name, fields in MESSAGES.items():
            asked = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi."}], **fields}
            made, count = await app.post("/v1/messages", asked), await app.post("/v1/messages/count_tokens", asked)
            assert made.status_code == count.status_code, (name, made.text, count.text)
            if made.status_code == 200:
                usage = made.json()["usage"]
                assert count.json()["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]

    asyncio.run(counted())


RESPONSES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "instructions": {"instructions": "Be brief."},
    "tools": {"tools": [{"type": "function", "name": "f", "parameters": SCHEMA}], "tool_choice": "required"},
    "effort": {"reasoning": {"effort": "none"}},
    "items": {"input": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi."}]},
    "a format": {"text": {"format": {"type": "json_object"}}},
}


@pytest.mark.parametrize("style", sorted(STYLES))
def test_input_tokens_are_those_of_a_response(style: str) -> None:
    async def counted() -> None:
        app = app_of(style)
        previous = (await app.post("/v1/responses", {"model": "demo", "input": "Who?"})).json().get("id")
        for name, fields in {**RESPONSES, "history": {"previous_response_id": previous}}.items():
            asked = {"model": "demo", "input": "Hi.", **fields}
            made, count = await app.post("/v1/responses", asked), await app.post("/v1/responses/input_tokens", asked)
            assert made.status_code == count.status_code, (name, made.text, count.text)
            if made.status_code == 200:
                tokens = made.json()["usage"]["input_tokens"]
                assert count.json() == {"object": "response.input_tokens", "input_tokens": tokens}

    asyncio.run(counted())
