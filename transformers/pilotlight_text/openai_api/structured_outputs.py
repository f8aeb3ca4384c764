"""What a request of OpenAI's or vLLM's says of its output's shape, as the one constraint that the engine enforces.

Pure. `response_format` is OpenAI's, `structured_outputs` vLLM's, `guided_*` its older spelling. Exactly one of them may
ask for something: what two of them ask for could not both be had. Imported when a request has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.conversation.constraint_field import CONSTRAINT

GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
}
FIELDS = ("response_format", "structured_outputs", *GUIDED)

_Json = Mapping[str, Any]


def structured_outputs_of(fields: _Json) -> StructuredOutputs | None:
    """`fields`: the request's, by name. Raises InvalidInput that names the field."""
    asked = _asking(fields)
    if not asked:
        return None
    if len(asked) > 1:
        first, second, *_ = asked
        raise InvalidInput(
            f"'{second}' cannot go with '{first}': each says what the output must look like; send one of them",
            param=second,
        )
    ((name, value),) = asked.items()
    return _constraint(name, value)


def field_of(fields: _Json) -> str:
    """The name of the field that asks; `fields` are those of a request in which one does."""
    return next(iter(_asking(fields)), CONSTRAINT)


def _asking(fields: _Json) -> dict[str, Any]:
    asked = {name: value for name in FIELDS if (value := fields.get(name)) is not None}
    if asked.get("guided_json_object") is False:
        del asked["guided_json_object"]
    if _is_text(asked.get("response_format")):
        del asked["response_format"]
    return asked


def _is_text(response_format: Any) -> bool:
    return isinstance(response_format, Mapping) and response_format.get("type") == "text"


def _constraint(name: str, value: Any) -> StructuredOutputs:
    if name == "response_format":
        return _of_response_format(value)
    given = {GUIDED[name]: value} if name in GUIDED else value
    if not isinstance(given, Mapping):
        raise InvalidInput(f"'{name}' must be an object", param=name)
    return _made({key: inner for key, inner in given.items() if inner is not None}, name)


def _of_response_format(value: Any) -> StructuredOutputs:
    kind = value.get("type") if isinstance(value, Mapping) else None
    read = _RESPONSE_FORMATS.get(kind) if isinstance(kind, str) else None
    if read is None:
        known = ", ".join(("text", *_RESPONSE_FORMATS))
        raise InvalidInput(f"'response_format.type' must be one of {known}", param="response_format.type")
    return read(value)


def _json_object(value: _Json) -> StructuredOutputs:
    schema = value.get("schema")
    if schema is None:
        return StructuredOutputs(json_object=True)
    return _made({"json": schema}, "response_format.schema")


def _json_schema(value: _Json) -> StructuredOutputs:
    described = value.get("json_schema")
    if not isinstance(described, Mapping):
        raise InvalidInput("'response_format.json_schema' must be an object", param="response_format.json_schema")
    schema = described.get("schema", {})
    if not isinstance(schema, Mapping):
        raise InvalidInput(
            "'response_format.json_schema.schema' must be an object", param="response_format.json_schema.schema"
        )
    if described.get("strict") not in (None, True, False):
        raise InvalidInput(
            "'response_format.json_schema.strict' must be true or false", param="response_format.json_schema.strict"
        )
    # Strict or not, what comes matches: there is no reason to enforce less.
    return _made({"json": dict(schema)}, "response_format.json_schema.schema")


def _structural_tag(value: _Json) -> StructuredOutputs:
    if "structures" not in value and "format" not in value:
        raise InvalidInput("'response_format' of type structural_tag needs a 'format'", param="response_format.format")
    return _made({"structural_tag": json.dumps(value)}, "response_format")


def _made(given: _Json, where: str) -> StructuredOutputs:
    try:
        return msgspec.convert(given, StructuredOutputs)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        inner = path.rstrip("`")
        named = f"{where}.{inner}" if where == "structured_outputs" and inner else where
        raise InvalidInput(f"'{named}': {message[:1].lower()}{message[1:]}", param=named) from None


_RESPONSE_FORMATS: Mapping[str, Callable[[_Json], StructuredOutputs]] = {
    "json_object": _json_object,
    "json_schema": _json_schema,
    "structural_tag": _structural_tag,
}
