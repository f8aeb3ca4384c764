"""A constraint that the engine refuses is refused by the name that the client has for it, on every surface."""

from __future__ import annotations

from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp

from pilotlight_protocol.errors import InvalidInput

SCHEMA = {"type": "object", "properties": {"a": {"not": {}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
SAYS = "the constraint cannot be compiled: no"
CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    f"/openai/v1/{name}" for name in ("chat/completions", "completions", "responses", "messages")
)
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 8},
    RESPONSES: {"input": "Hi"},
    MESSAGES: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8},
}
FUNCTION = {"name": "f", "parameters": SCHEMA}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (CHAT, {"response_format": FORMAT}, "response_format"),
        (CHAT, {"guided_json": SCHEMA}, "guided_json"),
        (CHAT, {"structured_outputs": {"json": SCHEMA}}, "structured_outputs"),
        (CHAT, {"response_format": {"type": "text"}, "guided_regex": "(?=a)"}, "guided_regex"),
        (CHAT, {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}, "tools"),
        (COMPLETIONS, {"response_format": FORMAT}, "response_format"),
        (COMPLETIONS, {"guided_grammar": "root ::= x"}, "guided_grammar"),
        (COMPLETIONS, {"prompt": ["Hi", "Ho"], "guided_choice": ["a"]}, "guided_choice"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, "text.format"),
        (RESPONSES, {"structured_outputs": {"regex": "(?=a)"}}, "structured_outputs"),
        (RESPONSES, {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}, "tools"),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, "output_config.format"),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}}, "tools"),
    ],
)
async def test_by_the_clients_name(path: str, fields: dict[str, Any], name: str, stream: bool) -> None:
    app = TextApp(FakeTokenSource(Answer((), error=InvalidInput(SAYS, param="structured_outputs"))))
    response = await app.post(path, {"model": "demo", **ASKED[path], **fields, "stream": stream})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert SAYS in error["message"]
    if name != "structured_outputs":
        assert f"'{name}'" in error["message"]
    if path != MESSAGES:  # Anthropic's errors name no parameter
        assert error["param"] == name


async def test_other_refusals_keep_their_name() -> None:
    app = TextApp(FakeTokenSource(Answer((), error=InvalidInput("'seed' is none", param="seed"))))
    response = await app.post(CHAT, {"model": "demo", **ASKED[CHAT], "response_format": FORMAT})
    assert response.json()["error"]["param"] == "seed"
    assert response.json()["error"]["message"] == "'seed' is none"
