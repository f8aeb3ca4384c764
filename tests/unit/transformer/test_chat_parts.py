"""Chats whose answers have reasoning and calls, over a fake source of tokens and a fake answer format, through ASGI."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from marked_answers import MarkedFormat
from text_app import TextApp, demo_ids, demo_text, events_of
from tool_model import tool_text

from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.openai_api.chat import ChatCompletions
from pilotlight_wire.handlers import RequestContext, Stream

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "tools": [TOOL]}


def app_saying(*texts: str, **options: Any) -> TextApp:
    batches = [demo_ids(text) for text in texts]
    app = TextApp(FakeTokenSource(Answer(batches, **options)))
    app.model._model.set_loaded(tool_text(MarkedFormat()))
    return app


def stopping(*texts: str) -> TextApp:
    """The choice ends by itself: the last token is the end of sequence, which is not shown."""
    return app_saying(*texts, ".", reason="stop")


async def choice_of(app: TextApp, **fields: Any) -> dict[str, Any]:
    (choice,) = (await app.post(CHAT, {**BODY, **fields})).json()["choices"]
    return dict(choice)


async def deltas_of(app: TextApp, **fields: Any) -> list[dict[str, Any]]:
    events = events_of(await app.post(CHAT, {**BODY, **fields, "stream": True}))
    assert events.pop() == "[DONE]"
    return [event["choices"][0] for event in events]


async def test_a_message_with_reasoning_words_and_calls() -> None:
    choice = await choice_of(stopping("[so", "]I look.", '@weather{"a":', " 1};@now{};"))
    message = choice["message"]
    assert message["reasoning_content"] == message["reasoning"] == "so"
    assert (message["content"], message["refusal"]) == ("I look.", None)
    first, second = message["tool_calls"]
    assert first["type"] == "function"
    assert re.fullmatch(r"call_[0-9a-f]{24}", first["id"])
    assert first["id"] != second["id"]
    assert first["function"] == {"name": "weather", "arguments": '{"a": 1}'}
    assert second["function"] == {"name": "now", "arguments": "{}"}
    assert choice["finish_reason"] == "tool_calls"


async def test_a_call_alone_has_null_content_and_words_alone_have_no_calls() -> None:
    assert (await choice_of(stopping("@now{};")))["message"]["content"] is None
    words = await choice_of(stopping("hi"))
    assert words["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert words["finish_reason"] == "stop"


async def test_deltas_are_openais() -> None:
    chunks = await deltas_of(stopping("@weather{", '"a": 1};', "@now{};"))
    assert chunks[0]["delta"] == {"role": "assistant", "content": None}
    begun = chunks[1]["delta"]["tool_calls"][0]
    assert (begun["index"], begun["type"]) == (0, "function")
    assert begun["function"] == {"name": "weather", "arguments": ""}
    assert begun["id"].startswith("call_")
    more = [chunk["delta"]["tool_calls"][0] for chunk in chunks[2:-1]]
    of_first = [call for call in more if call["index"] == 0]
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in of_first)
    assert "".join(call["function"]["arguments"] for call in of_first) == '{"a": 1}'
    assert [call["function"]["name"] for call in more if "id" in call] == ["now"]
    assert chunks[-1]["delta"] == {}
    assert chunks[-1]["finish_reason"] == "tool_calls"


async def test_reasoning_and_words_streamed_and_kept_back() -> None:
    said = [chunk["delta"] for chunk in await deltas_of(stopping("[so", " so]", "hi"))]
    assert said[0] == {"role": "assistant", "content": None}
    assert "".join(delta.get("reasoning_content", "") for delta in said) == "so so"
    assert all(delta.get("reasoning") == delta.get("reasoning_content") for delta in said)
    assert "".join(delta.get("content") or "" for delta in said) == "hi"
    hidden = await deltas_of(stopping("[so", " so]", "hi"), include_reasoning=False)
    assert [chunk["delta"] for chunk in hidden[:2]] == [{"role": "assistant", "content": None}, {"content": "h"}]
    assert "reasoning" not in (await choice_of(stopping("[so]hi"), include_reasoning=False))["message"]


@pytest.mark.parametrize("texts", [("@wea", 'ther{"a": 1};'), ("[", "so", "]hi"), ("hi", "ho"), ("hi @wea", "ther{};")])
@pytest.mark.parametrize("hidden", [True, False])
async def test_the_role_is_told_with_the_first_token(texts: tuple[str, ...], hidden: bool) -> None:
    """Whatever it turns out to be the beginning of."""
    app = stopping(*texts)
    body = json.dumps({**BODY, "stream": True, "n": 2, "include_reasoning": not hidden}).encode()
    streamed = await ChatCompletions(app.model._model, lambda: 0.0).handle(RequestContext("id", {}, body))
    assert isinstance(streamed, Stream)
    first = await anext(streamed.events)
    told = [json.loads(block.removeprefix(b"data: "))["choices"][0] for block in first.split(b"\n\n") if block]
    assert [choice["index"] for choice in told if choice["delta"].get("role") == "assistant"] == [0, 1]


async def test_an_answer_without_anything_is_an_empty_text() -> None:
    chunks = await deltas_of(stopping())
    assert [chunk["delta"] for chunk in chunks] == [{"role": "assistant", "content": None}, {"content": ""}]
    assert (await choice_of(stopping()))["message"]["content"] == ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{}, {"include_reasoning": False}, {"n": 2}, {"tools": []}])
async def test_the_tokens_of_reasoning_are_counted(fields: dict[str, Any], stream: bool) -> None:
    asked = {**BODY, **fields, "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    answer = await stopping("[", "so it is", "]", "hi").post(CHAT, asked)
    usage = events_of(answer)[-2]["usage"] if stream else answer.json()["usage"]
    thought = len(demo_ids("so it is")) * fields.get("n", 1)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": thought}
    none = await stopping("hi").post(CHAT, asked)
    usage = events_of(none)[-2]["usage"] if stream else none.json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_a_model_that_does_not_reason_counts_no_reasoning() -> None:
    app = TextApp(FakeTokenSource())
    usage = (await app.post(CHAT, {"model": "demo", "messages": BODY["messages"]})).json()["usage"]
    assert "completion_tokens_details" not in usage


async def test_one_call_at_most() -> None:
    choice = await choice_of(stopping("@weather{};@now{};"), parallel_tool_calls=False)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    chunks = await deltas_of(stopping("@weather{};@now{};"), parallel_tool_calls=False)
    assert {call["index"] for chunk in chunks for call in chunk["delta"].get("tool_calls", ())} == {0}


async def test_what_was_cut_keeps_its_reason() -> None:
    choice = await choice_of(app_saying('@weather{"a":'))
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":'
    assert (await choice_of(app_saying("@wea")))["message"]["content"] == "@wea"


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_of_everything_that_is_shown(stream: bool) -> None:
    texts = ("[so]", "hi", "@now{};")
    tokens = sum(len(demo_ids(text)) for text in (*texts, "."))
    hidden = len(demo_ids(texts[0]))
    for fields, count in (({}, tokens), ({"include_reasoning": False}, tokens - hidden)):
        if stream:
            chunks = await deltas_of(stopping(*texts), logprobs=True, **fields)
        else:
            chunks = [await choice_of(stopping(*texts), logprobs=True, **fields)]
            assert "tool_calls" in chunks[0]["message"]
        shown = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
        assert len(shown) == count


async def test_every_choice_has_a_parser_of_its_own() -> None:
    app = stopping("[so]", "@now{};")
    choices = (await app.post(CHAT, BODY | {"n": 3})).json()["choices"]
    assert [len(choice["message"]["tool_calls"]) for choice in choices] == [1, 1, 1]
    assert len({call["id"] for choice in choices for call in choice["message"]["tool_calls"]}) == 3
    events = events_of(await app.post(CHAT, BODY | {"n": 3, "stream": True, "stream_options": {"include_usage": True}}))
    assert events[-2]["usage"]["completion_tokens"] > 0
    assert {event["choices"][0]["index"] for event in events[:-2]} == {0, 1, 2}


async def test_calls_are_looked_for_only_where_they_may_be() -> None:
    app = stopping("hi")
    await app.post(CHAT, BODY | {"tool_choice": "none"})
    await app.post(CHAT, {"model": "demo", "messages": BODY["messages"]})
    await app.post(CHAT, BODY)
    asked = app.model._model.loaded().answer_format.asked  # type: ignore[union-attr]
    assert [(len(tools), calls) for tools, calls, _ in asked[::2]] == [(1, False), (0, False), (1, True)]


@pytest.mark.parametrize(
    ("choice", "text", "end"),
    [
        ("required", '[{"name": "weather", "parameters": {"a": 1}}]', "tool_calls"),
        (TOOL, '{"a": 1}', "stop"),
    ],
)
async def test_forced_calls_need_no_format_of_the_models(choice: Any, text: str, end: str) -> None:
    app = stopping(text)
    app.model._model.set_loaded(demo_text())
    told = await choice_of(app, tool_choice=choice)
    (call,) = told["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"a": 1}'}
    assert (told["message"]["content"], told["finish_reason"]) == (None, end)
    (asked,) = app.source.asked
    assert asked.parameters.structured_outputs is not None
    chunks = await deltas_of(app, tool_choice=choice)
    assert chunks[1]["delta"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": ""}
    assert chunks[-1]["finish_reason"] == end


async def test_strict_tools_that_cannot_be_enforced_are_told() -> None:
    strict = {"type": "function", "function": {"name": "now", "strict": True}}
    app = stopping("hi")
    assert "x-pilotlight-loose" not in (await app.post(CHAT, BODY | {"tools": [strict]})).headers
    app.model._model.set_loaded(tool_text(ChosenFormat("llama3_json", None)))
    for stream in (False, True):
        answer = await app.post(CHAT, BODY | {"tools": [strict], "stream": stream})
        assert (answer.status_code, answer.headers["x-pilotlight-loose"]) == (200, "tools")
        assert "x-pilotlight-loose" not in (await app.post(CHAT, BODY | {"stream": stream})).headers


async def test_marks_that_are_special_tokens_are_read_and_not_shown() -> None:
    """`<|im_start|>` is one of the demo model's: nobody sees it, but where it marks a call."""
    app = stopping("<|im_start|>hi")
    assert (await choice_of(app))["message"]["content"] == "hi"
    app.model._model.loaded().answer_format.shows_special_tokens = True  # type: ignore[union-attr, misc]
    assert (await choice_of(app))["message"]["content"] == "<|im_start|>hi"


async def test_a_schema_nested_without_end_is_refused() -> None:
    nested = "{" + '"properties":{"a":{' * 400 + "}}" * 400 + "}"
    tool = '{"type":"function","function":{"name":"f","parameters":' + nested + "}}"
    body = '{"model":"demo","messages":[{"role":"user","content":"x"}],"tools":[' + tool + "]}"
    response = await stopping("x").post(CHAT, body.encode())
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools[0].function.parameters")


async def test_tools_that_the_template_does_not_show_are_refused_where_the_model_is_to_choose() -> None:
    app = stopping('[{"name": "weather", "parameters": {}}]')
    app.model._model.set_loaded(replace(demo_text(), answer_format=ChosenFormat("llama3_json", None)))
    response = await app.post(CHAT, BODY)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
    assert "shows it no tools" in response.json()["error"]["message"]
    assert (await choice_of(app, tool_choice="required"))["message"]["tool_calls"]


async def test_a_model_without_known_calls_refuses_tools_by_name() -> None:
    app = TextApp(FakeTokenSource())
    response = await app.post(CHAT, BODY)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")
    assert (await app.post(CHAT, BODY | {"tool_choice": "none"})).status_code == 200
    assert len(app.source.asked) == 1
