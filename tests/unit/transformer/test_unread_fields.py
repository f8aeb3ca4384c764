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
MESSAGES = {"model": "demo", "max_tokens": 5, "messages": WORDS}
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
