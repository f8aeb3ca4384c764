"""What a request says of its output's shape becomes one constraint, or is refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.openai_api.structured_outputs import structured_outputs_of

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": None, "guided_json": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"guided_json_object": False}, None),
        ({"response_format": {"type": "json_object"}}, StructuredOutputs(json_object=True)),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, StructuredOutputs(json=SCHEMA)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            StructuredOutputs(json=SCHEMA),
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            StructuredOutputs(json=SCHEMA),
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, StructuredOutputs(json={})),
        (
            {"response_format": TAG},
            StructuredOutputs(
                structural_tag='{"type": "structural_tag", "format": {"type": "const_string", "value": "a"}}'
            ),
        ),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutputs(regex="a+")),
        ({"structured_outputs": {"regex": "a+", "json": None}}, StructuredOutputs(regex="a+")),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
            StructuredOutputs(json=SCHEMA, disable_any_whitespace=True),
        ),
        ({"guided_json": SCHEMA}, StructuredOutputs(json=SCHEMA)),
        ({"guided_json": '{"type":"object"}'}, StructuredOutputs(json='{"type":"object"}')),
        ({"guided_regex": "[ab]"}, StructuredOutputs(regex="[ab]")),
        ({"guided_choice": ["a", "b"]}, StructuredOutputs(choice=["a", "b"])),
        ({"guided_grammar": 'root ::= "a"'}, StructuredOutputs(grammar='root ::= "a"')),
        ({"guided_json_object": True}, StructuredOutputs(json_object=True)),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, StructuredOutputs(regex="a")),
    ],
)
def test_one_constraint(fields: dict[str, Any], expected: StructuredOutputs | None) -> None:
    assert structured_outputs_of(fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"guided_json": SCHEMA, "guided_choice": ["a"]}, "guided_choice"),
        ({"response_format": "json"}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": ["text"]}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}}},
            "response_format.json_schema.strict",
        ),
        ({"response_format": {"type": "structural_tag"}}, "response_format.format"),
        ({"structured_outputs": "a+"}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"regx": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_json": "not json"}, "guided_json"),
        ({"guided_grammar": ""}, "guided_grammar"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        structured_outputs_of(fields)
    assert caught.value.param == param
    assert param.partition(".")[0] in caught.value.message
