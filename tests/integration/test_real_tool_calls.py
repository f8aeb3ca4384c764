"""Tools with a real engine: a tiny model that has never heard of them is held to their schemas all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from component_process import RunningComponent
from tool_model import tool_model
from transformer_process import transformer

pytestmark = pytest.mark.integration

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"$ref": "#/$defs/Unit"},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
    "$defs": {"Unit": {"enum": ["C", "F"]}},
}
LIGHT = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "unit": {"$ref": "#/$defs/Unit"}},
    "required": ["on", "unit"],
    "additionalProperties": False,
    "$defs": {"Unit": {"enum": ["lux", "lumen"]}},
}
SCHEMAS = {"weather": WEATHER, "light": LIGHT}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()
]


@pytest.fixture(scope="module", params=["its own way", "a list"])
def client(
    request: pytest.FixtureRequest, predictor: RunningComponent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    """The model's template says how calls are written, or says nothing of them."""
    folder = tmp_path_factory.mktemp("tools")
    uri = tool_model(folder / "model") if request.param == "its own way" else "bundled://demo-awq"
    with (
        transformer(f"127.0.0.1:{predictor.port}", folder / "log", model_uri=uri) as running,
        openai.OpenAI(base_url=running.base + "/v1", api_key="none", max_retries=0) as made,
    ):
        yield made


def asked(seed: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Story {seed}: once upon a time"}]
    body = {"model": "demo", "messages": messages, "tools": TOOLS, "seed": seed, "temperature": 1.0}
    return body | {"max_tokens": 150} | fields


def assert_valid(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def test_a_required_call_is_valid_whatever_the_model_would_say(client: openai.OpenAI) -> None:
    named = set()
    for seed in range(6):
        ask = asked(seed, tool_choice="required", parallel_tool_calls=False, n=2)
        for choice in client.chat.completions.create(**ask).choices:
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            (call,) = list(choice.message.tool_calls or ())
            assert call.type == "function"
            assert_valid(call.function.name, call.function.arguments)
            named.add(call.function.name)
    assert named <= set(SCHEMAS)


def test_a_named_call_is_valid_in_a_stream(client: openai.OpenAI) -> None:
    for seed, name in enumerate(SCHEMAS):
        choice = {"type": "function", "function": {"name": name}}
        with client.chat.completions.stream(**asked(seed, tool_choice=choice)) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = stream.get_final_completion().choices[0]
        assert [event.name for event in done] == [name]
        assert_valid(name, done[0].arguments)
        assert final.finish_reason == "stop"
