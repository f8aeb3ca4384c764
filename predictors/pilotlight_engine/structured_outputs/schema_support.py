"""Which JSON schemas xgrammar enforces in full. Pure.

xgrammar passes over keywords it does not know, so a schema is given to it only when every keyword in it is one that is
known here to be enforced, where it stands; llguidance refuses what it does not know. The list was held against
jsonschema over thousands of generated schemas (tests/unit/engine/test_constraints.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator")
    + ("$schema", "$id", "$comment", "$defs", "definitions")
)
_VALUES = frozenset(("enum", "const", "default", "example", "examples"))
_SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
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
_DATE = (
    r"[12]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)"
_HEXTET = "[0-9a-fA-F]{1,4}"
_LAST_HEXTETS = rf"(?:{_HEXTET}:{_HEXTET}|{_OCTET}(?:\.{_OCTET}){{3}})"
_SHORTENED = (
    rf"(?:(?:{_HEXTET}:){{0,{before - 1}}}{_HEXTET})?::(?:{_HEXTET}:){{{5 - before}}}{_LAST_HEXTETS}"
    for before in range(1, 6)
)
_IPV6 = "|".join(
    (
        rf"(?:{_HEXTET}:){{6}}{_LAST_HEXTETS}",
        rf"::(?:{_HEXTET}:){{5}}{_LAST_HEXTETS}",
        *_SHORTENED,
        rf"(?:(?:{_HEXTET}:){{0,5}}{_HEXTET})?::{_HEXTET}",
        rf"(?:(?:{_HEXTET}:){{0,6}}{_HEXTET})?::",
    )
)
"""RFC 3986's IPv6address, row by row."""
_FORMAT_PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^{_OCTET}(?:\.{_OCTET}){{3}}$",
    "ipv6": f"^(?:{_IPV6})$",
}
"""Of those that a backend takes more widely: xgrammar knows no month's length, and takes zeros before a number;
llguidance knows no leap year."""
_FORMATS = frozenset(("uuid", "email", *_FORMAT_PATTERNS))
_MOST_SAFE_INTEGER = 2**53
_SAFE = r"[A-Za-z0-9 _@:,;=%&!~<>'#+-]"
_CLASS = rf"\[(?:{_SAFE}|\\[dw.+-]|[.*?()$|/])+\]"
_PLAIN = re.compile(rf"{_CLASS}|{_SAFE}|/|\\[dw.+*?()|$/-]|\((?:\?:|(?!\?))|[)|*+?]|\{{\d{{1,4}}(?:,\d{{0,4}})?\}}")
_JSON_CHARACTER = r'[^"\\\x00-\x1f\x7f\ud800-\udfff]'
"""As xgrammar has it for bounded strings, without what JSON does not allow. With escapes beside it, in an alternative,
a mask takes 30 ms of everybody's step instead of none."""
_LONG = 40


def enforced_by_xgrammar(schema: Any) -> bool:
    """`schema`: a JSON schema of bounded depth."""
    if not isinstance(schema, dict):
        return schema is True
    definitions = [inner for name in ("$defs", "definitions") for inner in _values(schema.get(name))]
    if not all(map(enforced_by_xgrammar, definitions)):
        return False
    keywords = schema.keys() - _ANNOTATIONS
    if not keywords:
        return True
    if "$ref" in keywords:
        return keywords == {"$ref"} and isinstance(schema["$ref"], str) and schema["$ref"].startswith("#")
    if "anyOf" in keywords:
        return keywords == {"anyOf"} and _all_enforced(schema["anyOf"])
    if "oneOf" in keywords:
        return keywords == {"oneOf"} and _all_enforced(schema["oneOf"]) and _are_apart(schema["oneOf"])
    if "allOf" in keywords:
        return keywords == {"allOf"} and _all_enforced(schema["allOf"]) and len(schema["allOf"]) == 1
    if keywords & {"enum", "const"}:
        return _picks(schema, keywords)
    return _typed(schema, keywords)


def _all_enforced(branches: Any) -> bool:
    return isinstance(branches, list) and bool(branches) and all(map(enforced_by_xgrammar, branches))


def _values(found: Any) -> Iterator[Any]:
    return iter(found.values() if isinstance(found, dict) else ())


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


def _typed(schema: dict[str, Any], keywords: set[str]) -> bool:
    types = schema.get("type")
    if isinstance(types, list):
        # Each of several types has its own keywords; together they are passed over.
        return keywords == {"type"} and all(name in _OF_TYPE for name in types if isinstance(name, str))
    if types is None:
        types = next((implied for keyword, implied in _IMPLIED.items() if keyword in keywords), None)
    if types not in _OF_TYPE or not keywords <= _OF_TYPE[types] | {"type"}:
        return False
    match types:
        case "object":
            return _object(schema)
        case "array":
            return _array(schema)
        case "string":
            return _string(schema, keywords)
        case "integer" | "number":
            return _number(schema, keywords)
    return True


def _object(schema: dict[str, Any]) -> bool:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    additional = schema.get("additionalProperties", False)
    if not set(required) <= properties.keys():
        return False
    # A property that is declared must not come again as an additional one, of another kind.
    if properties and additional is not False:
        return False
    inner = [*properties.values()] if additional in (True, False) else [*properties.values(), additional]
    return all(map(enforced_by_xgrammar, inner))


def _array(schema: dict[str, Any]) -> bool:
    prefix, items = schema.get("prefixItems", []), schema.get("items", True)
    if not isinstance(prefix, list) or isinstance(items, list):
        return False
    return all(map(enforced_by_xgrammar, prefix)) and (items is False or enforced_by_xgrammar(items))


def _string(schema: dict[str, Any], keywords: set[str]) -> bool:
    if keywords == {"type", "format"}:
        return schema["format"] in _FORMATS
    if keywords == {"type", "pattern"}:
        return isinstance(schema["pattern"], str) and is_plain_pattern(schema["pattern"])
    return keywords <= {"type", "minLength", "maxLength"}


def _number(schema: dict[str, Any], keywords: set[str]) -> bool:
    bounds = [schema[name] for name in keywords - {"type"}]
    return all(isinstance(bound, int | float) and abs(bound) < _MOST_SAFE_INTEGER for bound in bounds)


def is_plain_pattern(pattern: str) -> bool:
    """Whether it says what the whole string is, with nothing that JSON writes otherwise: xgrammar takes a pattern for
    the whole of a string's JSON, and what it lets through may be a quote or a control character."""
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        return False
    rest, depth = pattern[1:-1], 0
    while rest:
        found = _PLAIN.match(rest)
        if found is None:
            return False
        item, rest = found[0], rest[found.end() :]
        depth += item.startswith("(") - (item == ")")
        # An anchor at the pattern's end belongs to its last branch only.
        if depth < 0 or (item == "|" and depth == 0):
            return False
    return depth == 0


def written_for_xgrammar(schema: Any) -> Any:
    """The schema with bounded lengths and some formats as patterns over a string's JSON, which are enforced to the
    character."""
    if isinstance(schema, list):
        return [written_for_xgrammar(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.keys() & {"enum", "const"}:
        return schema
    written: dict[str, Any] = {
        name: {key: written_for_xgrammar(inner) for key, inner in value.items()}
        if name in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else value
        if name in _ANNOTATIONS
        else written_for_xgrammar(value)
        for name, value in schema.items()
    }
    if schema.get("type") == "string" and schema.keys() & {"minLength", "maxLength"}:
        low, high = written.pop("minLength", 0), written.pop("maxLength", "")
        written["pattern"] = f"^{_JSON_CHARACTER}{{{low},{high}}}$"
    elif schema.get("type") == "string" and schema.get("format") in _FORMAT_PATTERNS:
        written["pattern"] = _FORMAT_PATTERNS[written.pop("format")]
    return written


def written_for_guidance(schema: Any) -> Any:
    """The schema with some formats as patterns, where no pattern stands beside them."""
    if isinstance(schema, list):
        return [written_for_guidance(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    written: dict[str, Any] = {
        name: value
        if name in _VALUES
        else {key: written_for_guidance(inner) for key, inner in value.items()}
        if name in _SCHEMAS_BY_NAME and isinstance(value, dict)
        else written_for_guidance(value)
        for name, value in schema.items()
    }
    if written.get("format") in _FORMAT_PATTERNS and "pattern" not in written:
        written["pattern"] = _FORMAT_PATTERNS[written.pop("format")]
    return written


def has_long_strings(schema: Any) -> bool:
    """Whether xgrammar would take long: some 6 ms a character of a string's bound, with 49,152 tokens."""
    if isinstance(schema, dict):
        bounds = [schema.get("minLength"), schema.get("maxLength")]
        return any(isinstance(bound, int) and bound > _LONG for bound in bounds) or any(
            map(has_long_strings, schema.values())
        )
    return isinstance(schema, list) and any(map(has_long_strings, schema))


def _are_apart(branches: list[Any]) -> bool:
    """Nothing is of two of these, as their types or a property that tells them apart show."""
    return all(_tells_apart(one, other) for number, one in enumerate(branches) for other in branches[number + 1 :])


def _tells_apart(one: Any, other: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    types = one.get("type"), other.get("type")
    if all(isinstance(name, str) for name in types) and types[0] != types[1]:
        return set(types) != {"integer", "number"}
    shared = set(one.get("required", [])) & set(other.get("required", []))
    return any(_constants(one, name) and not _overlap(one, other, name) for name in shared)


def _overlap(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    others = _constants(other, name)
    return not others or any(value in others for value in _constants(one, name))


def _constants(schema: dict[str, Any], name: str) -> list[Any]:
    declared = schema.get("properties", {}).get(name)
    if not isinstance(declared, dict):
        return []
    return list(declared.get("enum", [])) or ([declared["const"]] if "const" in declared else [])


def without_additional_properties(schema: Any) -> None:
    """Close, in place, every object that says nothing of properties beyond its own."""
    if isinstance(schema, list):
        for inner in schema:
            without_additional_properties(inner)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name in _SCHEMAS_BY_NAME:
            without_additional_properties(list(_values(value)))
        elif name not in _VALUES:
            without_additional_properties(value)
    if "additionalProperties" not in schema and isinstance(schema.get("properties"), dict):
        schema["additionalProperties"] = False
