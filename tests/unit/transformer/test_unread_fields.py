"""Every surface says which fields of a request the model's chat template does not read, streamed or not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from surface_app import saying

from pilotlight_text import ignored_fields

WORDS = [{"role": "user", "content": "hello"}]
NAMED = [{"role": "user", "content": "hello", "name": "Ada"}]
DOCUMENTS = [{"title": "Oslo", "text": "rain"}]
MESSAGES: dict[str, Any] = {"model": "demo", "max_tokens": 5, "messages": WORDS}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]}
SAID = {"type": "message", "role": "assistant", "content": "ho"}
HEADER = "x-pilotlight-ignored-fields"

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"model": "demo", "messages": WORDS, "documents": DOCUMENTS}, "documents"),
    ("/v1/chat/completions", {"model": "demo", "messages": WORDS, "reasoning_effort": "low"}, "reasoning_effort"),
    (
        "/v1/chat/completions",
        {"model": "demo", "messages": NAMED, "temprature": 1, "chat_template_kwargs": {"a b": 1}},
        "temprature, chat_template_kwargs.a?b, messages.name",
    ),
    ("/v1/responses", {"model": "demo", "input": "hello", "reasoning": {"effort": "low"}}, "reasoning.effort"),
    ("/v1/responses", {"model": "demo", "input": [*WORDS, THOUGHT, SAID, *WORDS]}, "input.reasoning"),
    ("/v1/messages", {**MESSAGES, "output_config": {"effort": "low"}}, "output_config.effort"),
    ("/v1/messages", {**MESSAGES, "thinking": {"type": "disabled"}}, "thinking"),
]
CASES += [
    (
        "/v1/chat/completions",
        {"model": "demo", "messages": [*WORDS, {"role": "assistant", "content": "ho", "prefix": True}]},
        "messages.prefix",
    ),
    (
        "/v1/responses",
        {"model": "demo", "input": [{"role": "user", "content": "x", "phase": "a", "name": "b"}]},
        "input.phase, input.name",
    ),
]
COUNTS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/messages/count_tokens", {**MESSAGES, "output_config": {"effort": "low"}}, "max_tokens, output_config.effort"),
    ("/tokenize", {"model": "demo", "messages": NAMED, "documents": DOCUMENTS}, "documents, messages.name"),
    ("/v1/chat/completions/render", {"model": "demo", "messages": NAMED}, "messages.name"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "names"), CASES)
async def test_answers_name_them(path: str, body: dict[str, Any], names: str, stream: bool) -> None:
    answer = await saying("ho").post(path, {**body, "stream": stream})
    assert (answer.status_code, answer.headers[HEADER]) == (200, names)


@pytest.mark.parametrize(("path", "body", "names"), COUNTS)
async def test_so_do_counts(path: str, body: dict[str, Any], names: str) -> None:
    answer = await saying("ho").post(path, body)
    assert (answer.status_code, answer.headers[HEADER]) == (200, names)


async def test_the_log_has_a_line_of_each_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored_fields, "_logged", set())
    caplog.set_level(logging.WARNING, "pilotlight.text")
    app = saying("ho")
    for _ in range(2):
        await app.post("/v1/chat/completions", {"model": "demo", "messages": NAMED})
    assert [record.getMessage() for record in caplog.records] == [
        "requests have 'messages.name', which this model's chat template does not read: it is ignored"
    ]


async def test_a_plain_conversation_has_no_such_header() -> None:
    answer = await saying("ho").post("/v1/chat/completions", {"model": "demo", "messages": WORDS})
    assert HEADER not in answer.headers


READ = {"type", "name", "description", "parameters", "input_schema", "strict", "cache_control", "eager_input_streaming"}
"""Of a tool: shown to the model, enforced, or done without being asked."""

SAMPLES: dict[str, Any] = {"async": True, "defer_loading": True, "allowed_callers": ["code_execution_20250825"]}


def _tool_fields() -> list[tuple[str, dict[str, Any], str, str]]:
    """Every key that the SDKs' types have for a function, and the request it stands in."""
    from anthropic.types.beta import BetaToolParam
    from openai.types.responses import FunctionToolParam
    from openai.types.shared_params import FunctionDefinition

    schema = {"type": "object"}
    chat: dict[str, Any] = {"model": "demo", "messages": WORDS, "tool_choice": "none"}
    responses: dict[str, Any] = {"model": "demo", "input": "x", "tool_choice": "none"}
    messages: dict[str, Any] = {**MESSAGES, "tool_choice": {"type": "none"}}
    flat: dict[str, Any] = {"type": "function", "name": "f", "parameters": schema}
    own: dict[str, Any] = {"name": "f", "input_schema": schema}
    fields = []
    for key in sorted({*FunctionDefinition.__annotations__, "examples"} - READ):
        function: dict[str, Any] = {"name": "f", key: SAMPLES.get(key, {"a": "b"})}
        tools = [{"type": "function", "function": function}]
        fields.append(("/v1/chat/completions", {**chat, "tools": tools}, f"tools.function.{key}", key))
    for key in sorted(set(FunctionToolParam.__annotations__) - READ):
        tools = [{**flat, key: SAMPLES.get(key, {"a": "b"})}]
        fields.append(("/v1/responses", {**responses, "tools": tools}, f"tools.{key}", key))
    for key in sorted(set(BetaToolParam.__annotations__) - READ):
        tools = [{**own, key: SAMPLES.get(key, [{"a": "b"}])}]
        fields.append(("/v1/messages", {**messages, "tools": tools}, f"tools.{key}", key))
    return fields


async def test_what_a_tool_has_besides_is_refused_or_named() -> None:
    fields = _tool_fields()
    assert {"input_examples", "output_schema", "examples"} <= {key for *_, key in fields}
    for path, body, name, key in fields:
        answer = await saying("ho").post(path, body)
        if answer.status_code == 400:
            assert key in answer.json()["error"]["message"]
        else:
            assert name in answer.headers[HEADER].split(", "), name


async def test_an_effort_that_nobody_knows_is_refused_everywhere() -> None:
    for path, body in (
        ("/v1/chat/completions", {"model": "demo", "messages": WORDS, "reasoning_effort": "sideways"}),
        ("/v1/responses", {"model": "demo", "input": "x", "reasoning": {"effort": "sideways"}}),
        ("/v1/messages", {**MESSAGES, "output_config": {"effort": "sideways"}}),
    ):
        assert (await saying("ho").post(path, body)).status_code == 400


async def test_items_that_were_answered_come_back_without_a_remark() -> None:
    app = saying("ho")
    output = (await app.post("/v1/responses", {"model": "demo", "input": "x"})).json()["output"]
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
    result = {"type": "function_call_output", "call_id": "c", "output": "r"}
    items: list[dict[str, Any]] = [*WORDS, *output, call, result]
    answer = await app.post("/v1/responses", {"model": "demo", "input": items})
    assert answer.status_code == 200
    assert "input." not in answer.headers.get(HEADER, "")
