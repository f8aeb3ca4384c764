"""The constraint of a structured output: one of six, bounded, and refused with the name of what is wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, parse_parameters
from pilotlight_protocol.structured_outputs import MAX_CONSTRAINT_CHARS, MAX_NESTING, StructuredOutputs


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"json": {"type": "object"}}, ("json", '{"type": "object"}')),
        ({"json": '{"type":"object"}'}, ("json", '{"type":"object"}')),
        ({"json": {}}, ("json", "{}")),
        ({"regex": "a+"}, ("regex", "a+")),
        ({"regex": ""}, ("regex", "")),
        ({"choice": ["yes", "no"]}, ("choice", '["yes", "no"]')),
        ({"grammar": 'root ::= "a"'}, ("grammar", 'root ::= "a"')),
        ({"json_object": True}, ("json_object", "true")),
        ({"structural_tag": "{}"}, ("structural_tag", "{}")),
    ],
)
def test_one_constraint_and_its_text(given: dict[str, Any], constraint: tuple[str, str]) -> None:
    assert msgspec.convert(given, StructuredOutputs).constraint == constraint


def test_as_deep_as_it_may_be() -> None:
    StructuredOutputs(json=nested(MAX_NESTING))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "none is given"),
        ({"json": {}, "regex": "a"}, "json and regex together"),
        ({"jsn": {}}, "unknown field `jsn`"),
        ({"json": []}, "expected"),
        ({"json": "[]"}, "must be a JSON object"),
        ({"json": "{"}, "not valid JSON"),
        ({"json": "[" * 10_000}, "not valid JSON"),
        ({"json": nested(MAX_NESTING + 1)}, "nested more than 64"),
        ({"json": msgspec.json.encode(nested(MAX_NESTING + 1)).decode()}, "nested more than 64"),
        ({"json": {"enum": ["x" * MAX_CONSTRAINT_CHARS]}}, "characters"),
        ({"json": " " * (MAX_CONSTRAINT_CHARS + 1)}, "length"),
        ({"regex": "a\0b"}, "NUL"),
        ({"regex": "a" * (MAX_CONSTRAINT_CHARS + 1)}, "length"),
        ({"choice": []}, "length"),
        ({"choice": ["a"] * 5000}, "length"),
        ({"choice": ["a" * 1000] * 300}, "characters"),
        ({"grammar": ""}, "length"),
        ({"json_object": False}, "must be true"),
        ({"structural_tag": ""}, "length"),
        ({"json": {}, "whitespace_pattern": " "}, "whitespace_pattern"),
    ],
)
def test_refused_with_a_reason(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_parameters({"structured_outputs": given})
    assert caught.value.param == "structured_outputs"


def test_it_travels_unchanged_and_its_properties_keep_their_order() -> None:
    schema: dict[str, Any] = {"properties": {"b": {}, "a": {}}}
    parameters = parse_parameters({"structured_outputs": {"json": schema, "disable_any_whitespace": True}})
    on_json = parse_parameters(msgspec.json.decode(msgspec.json.encode(parameters)))
    on_frames = msgspec.msgpack.decode(msgspec.msgpack.encode(parameters), type=GenerationParameters)
    assert on_json == on_frames == parameters
    assert on_json.structured_outputs is not None
    assert on_json.structured_outputs.constraint == ("json", '{"properties": {"b": {}, "a": {}}}')
