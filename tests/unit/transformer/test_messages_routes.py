"""POST /messages over a fake source of tokens, through ASGI: whole, streamed, counted, and refused in its own shape."""

from __future__ import annotations

from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from surface_app import ids, named_events, prompt_of, saying
from text_app import TextApp

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.ignored_fields import IGNORED_HEADER

MESSAGES = "/v1/messages"
ASK: dict[str, Any] = {"model": "demo", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}


async def test_a_whole_message() -> None:
    app = saying("Once", " upon")
    response = await app.post("/openai/v1/messages", {**ASK, "system": "Be brief."})
    answer = response.json()
    assert answer["content"] == [{"type": "text", "text": "Once upon"}]
    assert (answer["type"], answer["role"], answer["stop_reason"]) == ("message", "assistant", "end_turn")
    prompt = len(app.source.asked[0].input_ids)
    assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] == prompt
    assert answer["usage"]["cache_read_input_tokens"] == 1
    assert "system\nBe brief." in prompt_of(app)
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_the_events_of_a_stream() -> None:
    app = saying("Once", " upon", reason="length")
    events = named_events(await app.post(MESSAGES, {**ASK, "stream": True}))
    assert [event["type"] for event in events] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    start, end = events[0]["message"], events[-2]
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert end["usage"]["output_tokens"] == len(ids("Once")) + len(ids(" upon"))
    assert app.source.closed == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence_is_named(stream: bool) -> None:
    app = saying("one", " two", " three", cut=True)
    response = await app.post(MESSAGES, {**ASK, "stop_sequences": [" tw"], "stream": stream})
    end = named_events(response)[-2]["delta"] if stream else response.json()
    assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", " tw")


async def test_words_put_into_the_assistants_mouth_are_continued() -> None:
    app = saying("!")
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Once upon"}]
    assert (await app.post(MESSAGES, {**ASK, "messages": turns})).status_code == 200
    assert prompt_of(app).endswith("Once upon")


async def test_what_claude_code_sends_is_taken() -> None:
    app = saying("a")
    system = [{"type": "text", "text": text} for text in ("x-anthropic-billing-header: cch=1;", "Be brief.")]
    body = {
        **ASK,
        "system": [{**block, "cache_control": {"type": "ephemeral"}} for block in system],
        "metadata": {"user_id": "someone"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    response = await app.post(f"{MESSAGES}?beta=true", body, **{"anthropic-version": "2023-06-01", "x-api-key": "none"})
    assert response.status_code == 200, response.text
    assert "Be brief." in prompt_of(app)
    assert "billing" not in prompt_of(app)


async def test_counted_is_what_is_sent() -> None:
    app = saying("a")
    body = {**ASK, "system": [{"type": "text", "text": "Be brief."}]}
    counted = await app.post(f"{MESSAGES}/count_tokens", body)
    assert app.source.asked == []
    await app.post(MESSAGES, body)
    assert counted.json() == {"input_tokens": len(app.source.asked[0].input_ids)}


async def test_a_conversation_that_is_too_long_is_counted() -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "word " * 3000}]}
    counted = await saying("a").post(f"{MESSAGES}/count_tokens", body)
    assert counted.json()["input_tokens"] > 3000


async def test_errors_have_anthropics_shape() -> None:
    app = TextApp(FakeTokenSource(Answer([], error=Unavailable("full", retry_after_s=7))))
    for stream in (False, True):
        response = await app.post(MESSAGES, {**ASK, "stream": stream})
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        assert response.json() == {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}
    unknown = await app.post(MESSAGES, {**ASK, "model": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    async with app.client() as client:
        assert (await client.get(MESSAGES)).json()["type"] == "error"
    broken = TextApp(FakeTokenSource(Answer([ids("Once")], error=Unavailable("lost"))))
    events = named_events(await broken.post(MESSAGES, {**ASK, "stream": True}))
    assert events[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "lost"}}


async def test_what_nobody_knows_is_named() -> None:
    response = await saying("a").post(MESSAGES, {**ASK, "thinking": {"type": "adaptive", "depth": 3}, "mood": "good"})
    assert response.status_code == 200
    assert response.headers[IGNORED_HEADER] == "mood, thinking.depth"
    assert IGNORED_HEADER not in (await saying("a").post(MESSAGES, ASK)).headers


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": []}], "system": []}, "messages"),
    (
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "x-anthropic-billing-header"}]}]},
        "messages",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, "tool_use_id"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]}]}, "input"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "max_tokens"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ({"temperature": -1}, "temperature"),
]


@pytest.mark.parametrize(("changed", "named"), BAD)
async def test_what_cannot_be_done_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    app = saying("a")
    body = {key: value for key, value in {**ASK, **changed}.items() if value is not None}
    response = await app.post(MESSAGES, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert named in response.json()["error"]["message"]
    assert app.source.asked == []
