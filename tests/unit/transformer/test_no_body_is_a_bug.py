"""No request body makes a 500: whatever is sent, the client is told what is wrong with it, or is answered."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import pytest
from fake_token_source import FakeTokenSource
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pooling_app import PoolingApp
from text_app import TextApp

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.anthropic_api.requests import CountTokensRequest, MessagesRequest
from pilotlight_text.openai_api.requests import ChatRequest, CompletionRequest
from pilotlight_text.pooling_api.requests import EmbeddingRequest, RerankRequest, ScoreRequest
from pilotlight_text.responses_api.requests import ResponsesRequest
from pilotlight_text.templates.chat_template import TEMPLATE_GLOBALS
from pilotlight_text.tokenization_api.requests import DetokenizeRequest, TokenizeRequest

ROUTES = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "generate": "/v2/models/demo/generate",
    "generate_stream": "/v2/models/demo/generate_stream",
    "infer": "/v2/models/demo/infer",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
    "rerank": "/rerank",
    "score": "/v1/score",
}
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"model": "demo", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "demo", "prompt": "hi"},
    "generate": {"text_input": "hi"},
    "generate_stream": {"text_input": "hi"},
    "infer": {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]},
    "tokenize": {"messages": [{"role": "user", "content": "hi"}]},
    "detokenize": {"tokens": [1]},
    "responses": {"model": "demo", "input": "hi"},
    "messages": {"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]},
    "count_tokens": {"model": "demo", "messages": [{"role": "user", "content": "hi"}]},
    "embeddings": {"input": "a cat"},
    "rerank": {"query": "a cat", "documents": ["a dog", {"text": "a mat"}]},
    "score": {"text_1": "a cat", "text_2": ["a dog"]},
}
PARAMETERS = GenerationParameters.__struct_fields__
FIELDS: dict[str, tuple[str, ...]] = {
    "chat": ChatRequest.__struct_fields__,
    "completions": CompletionRequest.__struct_fields__,
    "generate": ("text_input", "id", "parameters", *PARAMETERS),
    "generate_stream": ("text_input", "id", "parameters", *PARAMETERS),
    "infer": ("inputs", "id", "parameters", "outputs"),
    "tokenize": TokenizeRequest.__struct_fields__,
    "detokenize": DetokenizeRequest.__struct_fields__,
    "responses": ResponsesRequest.__struct_fields__,
    "messages": MessagesRequest.__struct_fields__,
    "count_tokens": CountTokensRequest.__struct_fields__,
    "embeddings": EmbeddingRequest.__struct_fields__,
    "rerank": RerankRequest.__struct_fields__,
    "score": ScoreRequest.__struct_fields__,
}
DEEP = "[" * 5000 + "]" * 5000
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "demo", "user", "[", DEEP, "{}", "\N{GRINNING FACE}", "\x00", "text", "NaN"])
)
names = st.text(max_size=8) | st.sampled_from(
    ["role", "content", "type", "text", "tool_calls", "function", "arguments", "name", "self", "messages", "tools"]
    + ["shape", "datatype", "data", "parameters", "stop_token_ids", "n", "logprobs", *sorted(TEMPLATE_GLOBALS)]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


@cache
def app() -> TextApp:
    return TextApp(FakeTokenSource())


@cache
def pooling_app() -> PoolingApp:
    return PoolingApp("embed")


async def status_of(route: str, body: bytes) -> int:
    if route in ("embeddings", "rerank", "score"):
        pooling_app().pooling.calls.clear()
        return (await pooling_app().post(ROUTES[route], body)).status_code
    app().source.asked.clear()
    response = await app().post(ROUTES[route], body)
    return response.status_code


def check(route: str, body: bytes) -> None:
    loop = asyncio.new_event_loop()
    try:
        status = loop.run_until_complete(status_of(route, body))
    finally:
        loop.close()
    assert status < 500 or status == 501, f"{status} for {body[:300]!r}"


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fields_of_any_kind(route: str, data: st.DataObject) -> None:
    fields = st.dictionaries(st.sampled_from(FIELDS[route]) | names, values, min_size=1, max_size=4)
    changed = data.draw(fields)
    check(route, json.dumps(GOOD[route] | changed, allow_nan=False).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=64) | values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_bodies_of_any_kind(route: str, body: bytes) -> None:
    check(route, body)


parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": values}), max_size=3)
calls = st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"arguments": values})}), max_size=2)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer"]) | values},
    optional={"content": values | parts, "tool_calls": values | calls},
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=st.lists(message, max_size=4),
    variables=st.dictionaries(names, values, max_size=4),
    flags=st.dictionaries(
        st.sampled_from(["stream", "echo", "continue_final_message", "add_generation_prompt", "add_special_tokens"]),
        st.booleans(),
    ),
)
def test_conversations_of_any_kind(messages: list[Any], variables: dict[str, Any], flags: dict[str, bool]) -> None:
    body = {"model": "demo", "messages": messages, "chat_template_kwargs": variables, **flags}
    check("chat", json.dumps(body).encode("utf-8", "surrogatepass"))


items = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", None]) | values},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "developer"]) | values,
            "content": values | st.lists(st.fixed_dictionaries({"type": st.just("input_text"), "text": values})),
            **dict.fromkeys(["call_id", "name", "arguments", "output", "summary", "status", "id"], values),
        },
    ),
    max_size=4,
)
tools = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["function", "custom", None]) | values, "name": st.just("f") | values},
        optional=dict.fromkeys(["parameters", "input_schema", "description", "strict", "allowed_callers"], values),
    ),
    max_size=2,
)
choices = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "allowed_tools", "tool", "any", "auto"]) | values},
    optional={"name": st.just("f") | values, "mode": st.just("auto") | values, "tools": tools | values},
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(given_items=items, tools=tools, choice=choices | values, rest=st.dictionaries(names, values, max_size=2))
def test_items_and_tools_of_any_kind(given_items: list[Any], tools: list[Any], choice: Any, rest: Any) -> None:
    body = {"model": "demo", "input": given_items, "tools": tools, "tool_choice": choice, **rest}
    check("responses", json.dumps(body).encode("utf-8", "surrogatepass"))


blocks = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image"]) | values},
        optional=dict.fromkeys(["text", "id", "name", "input", "tool_use_id", "content", "thinking"], values),
    ),
    max_size=3,
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": blocks | values}),
    max_size=3,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=turns, system=blocks | values, tools=tools, choice=choices | values)
def test_turns_and_blocks_of_any_kind(turns: list[Any], system: Any, tools: list[Any], choice: Any) -> None:
    body = {
        "model": "demo",
        "max_tokens": 4,
        "messages": turns,
        "system": system,
        "tools": tools,
        "tool_choice": choice,
    }
    check("messages", json.dumps(body).encode("utf-8", "surrogatepass"))


NESTED: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": DEEP}}]}]}),
    ("chat", {"stop_token_ids": 1, "chat_template_kwargs": {"self": 1}}),
    ("generate", {"parameters": {"stop_token_ids": DEEP}}),
    ("generate", {"parameters": {"stop": DEEP}}),
    ("generate", {"parameters": {"max_tokens": DEEP}}),
]


@pytest.mark.parametrize(("route", "changed"), NESTED)
def test_json_within_json_is_bounded(route: str, changed: dict[str, Any]) -> None:
    check(route, json.dumps(GOOD[route] | changed).encode())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("field", ["messages", "prompt", "parameters", "inputs", "text_input", "logit_bias", "tools"])
def test_nesting_is_bounded(route: str, field: str) -> None:
    good = json.dumps(GOOD[route])[:-1]
    check(route, f'{good}, "{field}": {DEEP}}}'.encode())
