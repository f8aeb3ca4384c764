"""render and derender: the two halves around a server of tokens say what the whole says, however the stream is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_token_source import Answer, FakeTokenSource
from text_app import TextApp, demo_ids, demo_text

from pilotlight_protocol.tokens_api import decode_generate_tokens, parameters_of

PREFIXES = ("/v1", "/openai/v1")
MESSAGES = [{"role": "user", "content": "What is scale to zero?"}]
RESPONSE = {"model": "demo", "input": "a"}
TEXT = "It sleeps. \N{GRINNING FACE} And wakes: caf\N{LATIN SMALL LETTER E WITH ACUTE}!"


def ids(text: str) -> list[int]:
    return demo_ids(text)


async def posted(path: str, body: Any, source: FakeTokenSource | None = None) -> Any:
    response = await TextApp(source or FakeTokenSource()).post(path, body)
    assert response.status_code == 200, response.text
    return response.json()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": MESSAGES, **fields}


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_render_says_what_a_chat_would_ask_for(prefix: str) -> None:
    source, asked = FakeTokenSource(), chat(max_tokens=7, temperature=0.5, stop_token_ids=[9], logit_bias={"5": 1.5})
    await posted(f"{prefix}/chat/completions", asked, source)
    rendering = FakeTokenSource()
    rendered = await posted(f"{prefix}/chat/completions/render", {**asked, "stream": True}, rendering)
    assert rendering.asked == []
    assert rendered["token_ids"] == source.asked[0].input_ids
    defaults = demo_text().sampling_defaults
    asked_for = {"max_tokens": 7, "temperature": 0.5, "stop_token_ids": [9], "logit_bias": {"5": 1.5}}
    assert rendered["sampling_params"] == {**defaults, **asked_for}
    assert (rendered["model"], rendered["stream"]) == ("demo", True)
    assert rendered["request_id"].startswith("chatcmpl-")


TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("surface", "asked"),
    [
        (
            "messages",
            {"messages": MESSAGES, "max_tokens": 7, "system": "Be brief.", "stop_sequences": ["x"]},
        ),
        (
            "messages",
            {
                "messages": MESSAGES,
                "max_tokens": 7,
                "tools": [{"name": "weather", "input_schema": TOOL["parameters"]}],
                "tool_choice": {"type": "any"},
            },
        ),
        ("responses", {"input": "What is scale to zero?", "instructions": "Be brief.", "max_output_tokens": 7}),
        ("responses", {"input": "Hi", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"}),
        ("responses", {"input": "Hi", "text": {"format": {"type": "json_object"}}, "temperature": 0.3}),
    ],
)
async def test_render_says_what_every_surface_would_ask_for(prefix: str, surface: str, asked: dict[str, Any]) -> None:
    source, rendering = FakeTokenSource(Answer([ids("[]")])), FakeTokenSource()
    await posted(f"{prefix}/{surface}", {"model": "demo", **asked}, source)
    rendered = await posted(f"{prefix}/{surface}/render", {"model": "demo", **asked, "stream": True}, rendering)
    assert rendering.asked == []
    (request,) = source.asked
    assert rendered["token_ids"] == request.input_ids
    assert rendered["stream"] is True
    read = parameters_of(decode_generate_tokens(json.dumps(rendered | {"stream": False}).encode()))
    assert read.structured_outputs == request.parameters.structured_outputs
    assert read.max_tokens == request.parameters.max_tokens
    assert read.stop == asked.get("stop_sequences", [])


async def test_render_of_prompts_is_a_list() -> None:
    source = FakeTokenSource()
    asked = {"model": "demo", "prompt": ["the cat", "a dog sat"], "max_tokens": 3}
    await posted("/v1/completions", asked, source)
    rendered = await posted("/v1/completions/render", asked)
    assert [one["token_ids"] for one in rendered] == [request.input_ids for request in source.asked]
    assert len({one["request_id"] for one in rendered}) == 2


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions/render", chat(messages=[]), "messages"),
        ("/v1/chat/completions/render", chat(temperature=9), "temperature"),
        ("/v1/completions/render", {"model": "demo", "prompt": []}, "prompt"),
        ("/v1/responses/render", {**RESPONSE, "previous_response_id": "resp_1"}, "previous_response_id"),
        ("/v1/responses/render", {**RESPONSE, "input": []}, "input"),
        ("/v1/chat/completions/derender", {}, "generate_response"),
        ("/v1/chat/completions/derender", {"stream": True}, "generate_chunk"),
        ("/v1/completions/derender", {}, "generate_responses"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(path: str, body: Any, param: str) -> None:
    response = await TextApp(FakeTokenSource()).post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def answer_of(tokens: list[int], **fields: Any) -> dict[str, Any]:
    return {"request_id": "r", "choices": [{"index": 0, "token_ids": tokens, "finish_reason": "length", **fields}]}


async def test_derender_says_what_the_whole_server_says() -> None:
    tokens = ids(TEXT)
    asked = chat(stop=["wakes"], temperature=0)
    whole = await posted("/v1/chat/completions", asked, FakeTokenSource(Answer([tokens])))
    rendered = await posted("/v1/chat/completions/render", asked)
    body = {"generate_response": answer_of(tokens), "chat_request": asked, "prompt_token_ids": rendered["token_ids"]}
    derendered = await posted("/v1/chat/completions/derender", body)
    assert derendered["choices"] == whole["choices"]
    assert derendered["choices"][0]["message"]["content"] == "It sleeps. \N{GRINNING FACE} And "
    assert derendered["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert derendered["usage"]["prompt_tokens"] == len(rendered["token_ids"])
    assert derendered["id"] == "r"


async def test_derender_of_choices_and_prompts() -> None:
    one, two = ids("It sleeps."), ids("It wakes.")
    both = {"request_id": "r", "choices": [{"index": 0, "token_ids": one}, {"index": 1, "token_ids": two}]}
    answered = await posted("/v1/chat/completions/derender", {"generate_response": both})
    assert [choice["message"]["content"] for choice in answered["choices"]] == ["It sleeps", "It wakes"]
    body = {"generate_responses": [answer_of(one), answer_of(two)], "prompt_tokens": [4, 5]}
    answered = await posted("/v1/completions/derender", body)
    assert [(choice["index"], choice["text"]) for choice in answered["choices"]] == [
        (0, "It sleeps."),
        (1, "It wakes."),
    ]
    assert answered["usage"]["prompt_tokens"] == 9


async def test_log_probabilities_come_as_text() -> None:
    tokens = ids("It")
    content = [
        {"token_id": token, "logprob": -0.5, "top_logprobs": [{"token_id": token, "logprob": -0.5}]} for token in tokens
    ]
    body = {"generate_response": answer_of(tokens, logprobs={"content": content}),
            "chat_request": chat(logprobs=True, top_logprobs=1)}  # fmt: skip
    answered = await posted("/v1/chat/completions/derender", body)
    told = answered["choices"][0]["logprobs"]["content"]
    assert [(one["token"], one["logprob"], len(one["top_logprobs"])) for one in told] == [("It", -0.5, 1)] * len(tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("path", ["/v1/chat/completions/derender", "/v1/completions/derender"])
async def test_a_stream_is_the_same_text_however_it_is_cut(path: str, size: int) -> None:
    tokens, state, text = ids(TEXT), None, ""
    app = TextApp(FakeTokenSource())
    cuts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    roles = []
    for place, piece in enumerate(cuts):
        last = place == len(cuts) - 1
        chunk = answer_of(piece, finish_reason="length" if last else None)
        body = {"stream": True, "generate_chunk": chunk, "stream_state": state, "prompt_token_ids": ids("Hi")}
        response = await app.post(path, body)
        assert response.status_code == 200, response.text
        (choice,) = response.json()["chunk"]["choices"]
        state = response.json()["stream_state"]
        delta = choice.get("delta", {"content": choice.get("text")})
        roles += [delta["role"]] if "role" in delta else []
        text += delta["content"]
        assert choice["finish_reason"] == ("length" if last else None)
    assert text == TEXT
    assert roles == (["assistant"] if "chat" in path else [])


async def test_the_last_event_of_a_stream_has_only_its_usage() -> None:
    chunk = {"request_id": "r", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
    told = await posted("/v1/chat/completions/derender", {"stream": True, "generate_chunk": chunk})
    assert (told["chunk"]["choices"], told["chunk"]["usage"]["completion_tokens"]) == ([], 4)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"generate_response": answer_of([10**6])}, "token_ids"),
        ({"generate_response": answer_of([5] * 600)}, "token_ids"),
        ({"generate_response": answer_of([5], finish_reason="abort")}, "finish_reason"),
        ({"generate_response": answer_of([5], index=1)}, "generate_response"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"model": "other"}, "model"),
    ],
)
async def test_an_answer_that_is_none_is_refused(change: dict[str, Any], param: str) -> None:
    body = {"generate_response": answer_of([5]), **change}
    response = await TextApp(FakeTokenSource()).post("/v1/chat/completions/derender", json.dumps(body).encode())
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_a_state_that_does_not_add_up_is_refused() -> None:
    state = {"output_token_ids": [1, 2], "output_chunk_lens": [1]}
    body = {"stream": True, "generate_chunk": answer_of([5]), "stream_state": state}
    response = await TextApp(FakeTokenSource()).post("/v1/completions/derender", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream_state")
