"""Which JSON schemas xgrammar enforces in full. Pure.

xgrammar passes over keywords it does not know, so a schema is given to it only when every keyword in it is one that is
known here to be enforced, where it stands; llguidance refuses what it does not know. The list was held against
jsonschema over thousands of generated schemas and over real clients' (tests/integration/test_backend_grammars.py).
"""

from __future__ import annotations

from typing import Any

from pilotlight_engine.structured_outputs.schema_branches import are_apart, referred, required_of
from pilotlight_engine.structured_outputs.schema_writing import values_of
from pilotlight_engine.structured_outputs.string_patterns import FORMAT_PATTERNS, is_plain_pattern

_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator")
    + ("$schema", "$comment", "$defs", "definitions")
)
_OF_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
}
_IMPLIED = {"properties": "object", "items": "array", "prefixItems": "array"}
_FORMATS = frozenset(("uuid", "email", *FORMAT_PATTERNS))
_MOST_SAFE_INTEGER = 2**53
_MOST_DECIMALS = 6


def enforced_by_xgrammar(schema: Any) -> bool:
    """`schema`: a JSON schema of bounded depth, however malformed."""
    if not isinstance(schema, dict):
        return schema is True
    return _enforced({name: value for name, value in schema.items() if name != "$id"}, schema)


def _enforced(schema: Any, root: dict[str, Any]) -> bool:
    """`root`: what references within `schema` start from."""
    if not isinstance(schema, dict):
        return schema is True
    definitions = [inner for name in ("$defs", "definitions") for inner in values_of(schema.get(name))]
    if not _all_enforced(definitions, root):
        return False
    keywords = schema.keys() - _ANNOTATIONS
    if not keywords:
        return True
    if "$ref" in keywords:
        return keywords == {"$ref"} and isinstance(schema["$ref"], str) and schema["$ref"].startswith("#")
    for name in ("anyOf", "oneOf", "allOf"):
        if name in keywords:
            return keywords == {name} and _branches(name, schema[name], root)
    if keywords & {"enum", "const"}:
        return _picks(schema, keywords)
    return _typed(schema, keywords, root)


def _all_enforced(schemas: list[Any], root: dict[str, Any]) -> bool:
    return all(_enforced(schema, root) for schema in schemas)


def _branches(name: str, branches: Any, root: dict[str, Any]) -> bool:
    if not isinstance(branches, list) or not branches or not _all_enforced(branches, root):
        return False
    match name:
        case "oneOf":
            return are_apart([referred(branch, root) for branch in branches])
        case "allOf":
            return len(branches) == 1
    return True


def _picks(schema: dict[str, Any], keywords: set[str]) -> bool:
    if len(keywords - {"type"}) != 1:
        return False
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if not isinstance(values, list) or not values:
        return False
    types = schema.get("type")
    names = [types] if isinstance(types, str) else types
    return types is None or (isinstance(names, list) and all(_is_of(value, names) for value in values))


def _is_of(value: Any, types: list[Any]) -> bool:
    match value:
        case bool():
            return "boolean" in types
        case int():
            return "integer" in types or "number" in types
        case float():
            return "number" in types
        case str():
            return "string" in types
        case None:
            return "null" in types
        case list():
            return "array" in types
        case _:
            return "object" in types


def _typed(schema: dict[str, Any], keywords: set[str], root: dict[str, Any]) -> bool:
    types = schema.get("type")
    if isinstance(types, list):
        # Each of several types has its own keywords; together they are passed over.
        return keywords == {"type"} and bool(types) and all(map(_is_type, types))
    if types is None:
        types = next((implied for keyword, implied in _IMPLIED.items() if keyword in keywords), None)
    if not isinstance(types, str) or types not in _OF_TYPE or not keywords <= _OF_TYPE[types] | {"type"}:
        return False
    match types:
        case "object":
            return _object(schema, root)
        case "array":
            return _array(schema, root)
        case "string":
            return _string(schema, keywords)
        case "integer" | "number":
            return _number(schema, keywords)
    return True


def _is_type(name: Any) -> bool:
    return isinstance(name, str) and name in _OF_TYPE


def _object(schema: dict[str, Any], root: dict[str, Any]) -> bool:
    properties, additional = schema.get("properties", {}), schema.get("additionalProperties", False)
    required = required_of(schema)
    if not isinstance(properties, dict) or required is None or not required <= properties.keys():
        return False
    # A property that is declared must not come again as an additional one, of another kind.
    if properties and additional is not False:
        return False
    return _all_enforced([*properties.values(), *([additional] if isinstance(additional, dict) else [])], root)


def _array(schema: dict[str, Any], root: dict[str, Any]) -> bool:
    prefix, items = schema.get("prefixItems", []), schema.get("items", True)
    if not isinstance(prefix, list) or isinstance(items, list):
        return False
    return _all_enforced(prefix, root) and (items is False or _enforced(items, root))


def _string(schema: dict[str, Any], keywords: set[str]) -> bool:
    if keywords == {"type", "format"}:
        return isinstance(schema["format"], str) and schema["format"] in _FORMATS
    if keywords == {"type", "pattern"}:
        return isinstance(schema["pattern"], str) and is_plain_pattern(schema["pattern"])
    return keywords <= {"type", "minLength", "maxLength"}


def _number(schema: dict[str, Any], keywords: set[str]) -> bool:
    bounds = [schema[name] for name in keywords - {"type"}]
    return all(isinstance(bound, int | float) and _is_short(bound) for bound in bounds)


def _is_short(bound: float) -> bool:
    """xgrammar takes no more decimals; of two bounds closer than that it makes a grammar of nothing."""
    return abs(bound) < _MOST_SAFE_INTEGER and round(bound, _MOST_DECIMALS) == bound
