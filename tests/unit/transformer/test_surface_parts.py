"""Reasoning and calls, read out of a model's own marks, on both surfaces and back into the next prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from surface_app import named_events, prompt_of, saying
from text_app import TextApp, events_of
from tool_model import tool_text

from pilotlight_text.answer_parts.chosen_format import ChosenFormat

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THOUGHT = "It asks for the weather."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ASK_RESPONSES: dict[str, Any] = {
    "model": "demo",
    "input": "How is it in Oslo?",
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
}
ASK_MESSAGES: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "How is it in Oslo?"}],
    "tools": [{"name": "weather", "input_schema": SCHEMA}],
}


def thinking(*, ended: bool = True) -> TextApp:
    words = ["<think>", THOUGHT, "</think>", "I look.", CALL]
    app = saying(*words, reason="stop" if ended else "length")
    app.model._model.set_loaded(tool_text(ChosenFormat("hermes", "qwen3")))
    return app


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_thinks_speaks_and_calls(stream: bool) -> None:
    app = thinking()
    made = await app.post("/v1/responses", {**ASK_RESPONSES, "stream": stream})
    answer = named_events(made)[-1]["response"] if stream else made.json()
    thought, said, call = answer["output"]
    assert (thought["type"], thought["content"]) == ("reasoning", [{"type": "reasoning_text", "text": THOUGHT}])
    assert said["content"][0]["text"] == "I look."
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})
    assert 0 < answer["usage"]["output_tokens_details"]["reasoning_tokens"] < answer["usage"]["output_tokens"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    for follow in (
        {"input": [result], "previous_response_id": answer["id"]},
        {"input": [{"role": "user", "content": "How is it in Oslo?"}, *answer["output"], result]},
    ):
        assert (await app.post("/v1/responses", {**ASK_RESPONSES, **follow})).status_code == 200
        prompt = prompt_of(app)
        assert prompt.index("I look.") < prompt.index('{"name": "weather", "arguments"') < prompt.index("rain")
        assert prompt.count("assistant\n") == 2, "what it thought, said and called is one turn"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_thinks_speaks_and_calls(stream: bool) -> None:
    app = thinking()
    made = await app.post("/v1/messages", {**ASK_MESSAGES, "stream": stream})
    if stream:
        events = named_events(made)
        blocks = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        assert blocks == ["thinking", "text", "tool_use"]
        assert "".join(delta.get("thinking", "") for delta in deltas) == THOUGHT
        assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Oslo"}
        assert events[-2]["delta"]["stop_reason"] == "tool_use"
        return
    answer = made.json()
    thought, said, call = answer["content"]
    assert (thought["type"], thought["thinking"], said["text"]) == ("thinking", THOUGHT, "I look.")
    assert (call["name"], call["input"], answer["stop_reason"]) == ("weather", {"city": "Oslo"}, "tool_use")
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0
    result = [{"type": "tool_result", "tool_use_id": call["id"], "content": "rain"}]
    turns = [*ASK_MESSAGES["messages"], {"role": "assistant", "content": answer["content"]}]
    follow = {**ASK_MESSAGES, "messages": [*turns, {"role": "user", "content": result}]}
    assert (await app.post("/v1/messages", follow)).status_code == 200
    prompt = prompt_of(app)
    assert prompt.index("I look.") < prompt.index('{"name": "weather", "arguments"') < prompt.index("rain")


async def test_hidden_thinking_is_a_block_without_words() -> None:
    hidden = {"type": "adaptive", "display": "omitted"}
    answer = (await thinking().post("/v1/messages", {**ASK_MESSAGES, "thinking": hidden})).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]
    assert answer["content"][0]["thinking"] == ""
    assert answer["usage"]["output_tokens_details"]["thinking_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_that_is_not_shown_is_counted(stream: bool) -> None:
    hidden = {**ASK_RESPONSES, "include_reasoning": False, "stream": stream}
    made = await thinking().post("/v1/responses", hidden)
    answer = named_events(made)[-1]["response"] if stream else made.json()
    assert "reasoning" not in [item["type"] for item in answer["output"]]
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("/v1/responses", {**ASK_RESPONSES, "parallel_tool_calls": False}),
        ("/v1/messages", {**ASK_MESSAGES, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
    ],
)
async def test_one_call_where_one_is_asked_for(path: str, changed: dict[str, Any]) -> None:
    app = saying(CALL + "\n" + CALL)
    app.model._model.set_loaded(tool_text(ChosenFormat("hermes", None)))
    answer = (await app.post(path, changed)).json()
    assert len(answer.get("output") or answer["content"]) == 1


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("/v1/responses", {**ASK_RESPONSES, "tool_choice": "required"}),
        ("/v1/responses", {**ASK_RESPONSES, "tool_choice": {"type": "function", "name": "weather"}}),
        ("/v1/messages", {**ASK_MESSAGES, "tool_choice": {"type": "any"}}),
        ("/v1/messages", {**ASK_MESSAGES, "tool_choice": {"type": "tool", "name": "weather"}}),
    ],
)
async def test_a_forced_call_is_held_to_its_schema(path: str, changed: dict[str, Any]) -> None:
    app = saying(CALL)
    app.model._model.set_loaded(tool_text(ChosenFormat("hermes", None)))
    answer = (await app.post(path, changed)).json()
    assert app.source.asked[0].parameters.structured_outputs is not None
    (call,) = answer.get("output") or answer["content"]
    assert call["name"] == "weather"


def calling(end: str) -> TextApp:
    """A whole call, and one that is cut in the middle of its arguments: by a stop string, or for its length."""
    begun = '<tool_call>\n{"name": "weather", "arguments": {"city": "Par'
    text = f"{CALL}\n{begun}{'###is' if end == 'stop' else ''}"
    app = saying(text, reason="stop" if end == "stop" else "length")
    app.model._model.set_loaded(tool_text(ChosenFormat("hermes", None)))
    return app


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["stop", "length"])
async def test_a_cut_call_is_told_as_far_as_it_came_and_said_to_be_cut(end: str, stream: bool) -> None:
    asked: dict[str, Any] = {"stop": "###"} if end == "stop" else {}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    chat = {"model": "demo", "messages": ASK_MESSAGES["messages"], "tools": tools, "stream": stream, **asked}
    told = await calling(end).post("/v1/chat/completions", chat)
    if stream:
        choices = [event["choices"][0] for event in events_of(told)[:-1]]
        calls = [call["function"] for choice in choices for call in choice["delta"].get("tool_calls", ())]
        arguments = "".join(call["arguments"] for call in calls)
        finish, stopped_by = choices[-1]["finish_reason"], choices[-1]["stop_reason"]
    else:
        (choice,) = told.json()["choices"]
        arguments = "".join(call["function"]["arguments"] for call in choice["message"]["tool_calls"])
        finish, stopped_by = choice["finish_reason"], choice["stop_reason"]
    assert arguments == '{"city": "Oslo"}{"city": "Par'
    assert (finish, stopped_by) == (end, "###" if end == "stop" else None)

    made = await calling(end).post("/v1/responses", {**ASK_RESPONSES, "stream": stream, **asked})
    answer = named_events(made)[-1]["response"] if stream else made.json()
    assert [(item["status"], item["arguments"]) for item in answer["output"]] == [
        ("completed", '{"city": "Oslo"}'),
        ("incomplete", '{"city": "Par'),
    ]
    reason = None if end == "stop" else "max_output_tokens"
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": reason})

    asked = {"stop_sequences": ["###"]} if end == "stop" else {}
    made = await calling(end).post("/v1/messages", {**ASK_MESSAGES, "stream": stream, **asked})
    answer = named_events(made)[-2]["delta"] if stream else made.json()
    assert answer["stop_reason"] == ("stop_sequence" if end == "stop" else "max_tokens")
    assert answer["stop_sequence"] == ("###" if end == "stop" else None)
