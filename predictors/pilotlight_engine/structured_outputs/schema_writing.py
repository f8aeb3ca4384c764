"""JSON schemas written so that a backend enforces them: without what means nothing, and in its own words. Pure.

Nothing here may widen or narrow what a schema says; which backend may have it is schema_support's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pilotlight_engine.structured_outputs.schema_branches import are_apart, referred
from pilotlight_engine.structured_outputs.string_patterns import FORMAT_PATTERNS, JSON_CHARACTER, check_pattern

VALUES = frozenset(("enum", "const", "default", "example", "examples"))
SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_NO_STRINGS = frozenset(("object", "array", "integer", "number", "boolean", "null"))
_TOLD_ONLY = frozenset(
    ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "decimal", "byte")
    + ("binary", "base64", "base64url", "password", "path", "file-path", "directory-path", "json-string", "html")
    + ("char", "commonmark", "ipv4network", "ipv6network", "ipv4interface", "ipv6interface", "ipvanyaddress")
    + ("ipvanynetwork", "ipvanyinterface", "multi-host-uri")
)
"""OpenAPI's and pydantic's formats, of which JSON Schema says that they describe and assert nothing. Any other that is
not known is refused by its name: it may be a slip."""
_KEYWORDS = frozenset(
    ("type", "const", "multipleOf", "divisibleBy", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum")
    + ("maxLength", "minLength", "pattern", "format", "maxItems", "minItems", "uniqueItems", "maxContains")
    + ("minContains", "maxProperties", "minProperties", "required", "items", "additionalItems", "contains")
    + ("additionalProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "not", "if", "then")
    + ("else", "disallow", "extends", "id", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$ref")
    + ("$dynamicRef", "$recursiveRef", "$schema", "$comment", "title", "description", "default", "example")
    + ("deprecated", "readOnly", "writeOnly")
)
"""Of every draft, those that may have a value that is no object and no list. JSON Schema has any other passed over, and
llguidance does: OpenAPI's `nullable`, editors' `markdownDescription`, `x-…`. What holds schemas may be referred to."""
_LONG = 40
_MOST_EXACT = 2**53


def values_of(found: Any) -> Iterator[Any]:
    return iter(found.values() if isinstance(found, dict) else ())


def plainly(schema: Any) -> Any:
    """The same schema without keywords and formats that assert nothing, with names of a fixed set as properties, and
    with one of several that exclude each other as any of them."""
    root = schema if isinstance(schema, dict) else {}

    def write(inner: dict[str, Any]) -> dict[str, Any]:
        return _any_of(_named_properties(_without_told_format(_without_foreign(inner)), root), root)

    return _everywhere(schema, write)


def _everywhere(schema: Any, write: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """`write` each schema within `schema`, from the inside out; what is no schema is left alone."""
    if isinstance(schema, list):
        return [_everywhere(inner, write) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return write(
        {
            name: value
            if name in VALUES
            else {key: _everywhere(inner, write) for key, inner in value.items()}
            if name in SCHEMAS_BY_NAME and isinstance(value, dict)
            else _everywhere(value, write)
            for name, value in schema.items()
        }
    )


def _without_foreign(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name in _KEYWORDS or isinstance(value, dict | list)}


def _without_told_format(schema: dict[str, Any]) -> dict[str, Any]:
    format_, types = schema.get("format"), schema.get("type", "string")
    names = types if isinstance(types, list) else [types]
    if not isinstance(format_, str) or not (format_ in _TOLD_ONLY or _NO_STRINGS.issuperset(map(str, names))):
        return schema
    return {name: value for name, value in schema.items() if name != "format"}


def _any_of(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """llguidance sees fewer of them that exclude each other, and refuses the rest."""
    branches = schema.get("oneOf")
    if "anyOf" in schema or not isinstance(branches, list) or not branches:
        return schema
    if not are_apart([referred(branch, root) for branch in branches]):
        return schema
    return {"anyOf" if name == "oneOf" else name: value for name, value in schema.items()}


def _named_properties(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """`dict[Literal["a", "b"], X]`, as pydantic writes it: no backend knows `propertyNames`."""
    names = _fixed_names(schema.get("propertyNames"), root)
    if names is None or schema.keys() & {"properties", "patternProperties"}:
        return schema
    written = {name: value for name, value in schema.items() if name != "propertyNames"}
    value = written.get("additionalProperties", True)
    written["properties"] = {} if value is False else dict.fromkeys(names, {} if value is True else value)
    written["additionalProperties"] = False
    return written


def _fixed_names(names: Any, root: dict[str, Any]) -> list[str] | None:
    names = referred(names, root)
    if not isinstance(names, dict) or names.keys() - {"enum", "const", "type", "title", "description"}:
        return None
    found = names.get("enum", [names["const"]] if "const" in names else None)
    if not isinstance(found, list) or names.get("type", "string") != "string":
        return None
    return found if all(isinstance(name, str) for name in found) else None


def written_for_xgrammar(schema: Any) -> Any:
    """The schema with bounded lengths and some formats as patterns over a string's JSON, which are enforced to the
    character."""
    return _everywhere(schema, _patterns_for_xgrammar)


def _patterns_for_xgrammar(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") != "string" or schema.keys() & {"enum", "const"}:
        return schema
    written = dict(schema)
    if schema.keys() & {"minLength", "maxLength"}:
        low, high = written.pop("minLength", 0), written.pop("maxLength", "")
        written["pattern"] = f"^{JSON_CHARACTER}{{{low},{high}}}$"
    elif schema.get("format") in FORMAT_PATTERNS:
        written["pattern"] = FORMAT_PATTERNS[written.pop("format")]
    return written


def written_for_guidance(schema: Any) -> Any:
    """The schema with some formats as patterns, where no pattern stands beside them. Raises ValueError."""
    return _everywhere(schema, _patterns_for_guidance)


def _patterns_for_guidance(schema: dict[str, Any]) -> dict[str, Any]:
    format_ = schema.get("format")
    if isinstance(schema.get("pattern"), str):
        check_pattern(schema["pattern"])
    if not isinstance(format_, str) or format_ not in FORMAT_PATTERNS or "pattern" in schema:
        return schema
    written = {name: value for name, value in schema.items() if name != "format"}
    return {**written, "pattern": FORMAT_PATTERNS[format_]}


def has_long_strings(schema: Any) -> bool:
    """Whether xgrammar would take long: some 6 ms a character of a string's bound, with 49,152 tokens."""
    if isinstance(schema, dict):
        bounds = [schema.get("minLength"), schema.get("maxLength")]
        return any(isinstance(bound, int) and bound > _LONG for bound in bounds) or any(
            map(has_long_strings, schema.values())
        )
    return isinstance(schema, list) and any(map(has_long_strings, schema))


def has_inexact_integers(schema: Any) -> bool:
    """Whether a number in it, such as an id in an enum, is one that llguidance, which reads 64-bit floats, changes."""
    if isinstance(schema, dict):
        return any(map(has_inexact_integers, schema.values()))
    if isinstance(schema, list):
        return any(map(has_inexact_integers, schema))
    return isinstance(schema, int) and abs(schema) > _MOST_EXACT


def without_additional_properties(schema: Any) -> None:
    """Close, in place, every object that says nothing of properties beyond its own."""
    if isinstance(schema, list):
        for inner in schema:
            without_additional_properties(inner)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name in SCHEMAS_BY_NAME:
            without_additional_properties(list(values_of(value)))
        elif name not in VALUES:
            without_additional_properties(value)
    if "additionalProperties" not in schema and isinstance(schema.get("properties"), dict):
        schema["additionalProperties"] = False
