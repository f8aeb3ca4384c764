"""JSON schemas of many shapes, the same for the same seed, whose outputs are short enough to end."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

_WORDS = ("name", "age", "city", "tags", "ok", "x", "größe", 'quo"te', "a b")
_PATTERNS = (
    "^[0-9]{3}$",
    "^[a-c]{1,4}$",
    "^(yes|no)$",
    "^[A-Z][a-z]{0,3}-[0-9]{1,2}$",
    "^\\d{4}$",
    "^$",
    "^.{1,4}$",
    "b",
    "^[^x]{2}",
    "\\w",
)
_FORMATS = ("date", "time", "date-time", "ipv4", "ipv6", "uuid", "email")
_RARE: tuple[Schema, ...] = (
    {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 30},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 2, "uniqueItems": True},
    {"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}, "maxItems": 2},
    {"allOf": [{"type": "string"}, {"enum": ["a", "b"]}]},
    {"type": "string", "pattern": "^a+$", "maxLength": 3},
    {"type": "string", "format": "hostname"},
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"maxLength": 2}, "else": {"type": "null"}},
    {"type": "object", "patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False},
    {"type": "object", "propertyNames": {"maxLength": 1}, "additionalProperties": {"type": "null"}},
    {"type": "object", "properties": {"a": {"type": "null"}}, "dependentRequired": {"a": ["b"]}},
    {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "null"}},
    {"minimum": 3},
    {"maxLength": 2},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": "string", "enum": ["a", 1, None]},
    {"enum": ["aa", "b"], "minLength": 2},
    {"oneOf": [{"type": "integer", "maximum": 5}, {"type": "integer", "minimum": 3}]},
    {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "null"}]},
    {"anyOf": [{"minimum": 1, "type": "integer"}, {"type": "string"}], "maxLength": 2},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "b"]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
    {"type": "object", "required": ["a"], "additionalProperties": {"type": "boolean"}},
    {"$ref": "#/$defs/leaf", "maxLength": 1},
    {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "maxItems": 3, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False},
    {"type": "array", "maxItems": 0},
    {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 3},
)


def schema(seed: int) -> Schema:
    """An object of a few properties with everything inside; some of these no backend enforces."""
    random_ = random.Random(seed)
    found = _object(random_, 3)
    found["$defs"] = {
        "leaf": _leaf(random_),
        "list": {
            "type": "object",
            "properties": {"value": _leaf(random_), "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        },
    }
    return found


def _any(random_: random.Random, depth: int) -> Schema:
    if depth <= 0 or random_.random() < 0.45:
        return _leaf(random_)
    match random_.randrange(7):
        case 0:
            return _object(random_, depth - 1)
        case 1:
            return _array(random_, depth - 1)
        case 2:
            return {"anyOf": [_any(random_, depth - 1) for _ in range(random_.randint(1, 3))]}
        case 3:
            return {"$ref": random_.choice(("#/$defs/leaf", "#/$defs/list"))}
        case 4:
            return {"allOf": [_any(random_, depth - 1)], "description": "one of one"}
        case 5 if random_.random() < 0.35:
            return dict(random_.choice(_RARE))
        case _:
            return _object(random_, depth - 1)


def _object(random_: random.Random, depth: int) -> Schema:
    names = random_.sample(_WORDS, random_.randint(0, 4))
    found: Schema = {"type": "object", "properties": {name: _any(random_, depth) for name in names}}
    found["required"] = [name for name in names if random_.random() < 0.7]
    if random_.random() < 0.8:
        found["additionalProperties"] = False
    if random_.random() < 0.2:
        found["title"] = "Thing"
    return found


def _array(random_: random.Random, depth: int) -> Schema:
    low = random_.randint(0, 2)
    return {"type": "array", "items": _any(random_, depth), "minItems": low, "maxItems": low + random_.randint(0, 2)}


def _leaf(random_: random.Random) -> Schema:
    match random_.randrange(13):
        case 12:
            return {"type": "string"}
        case 0:
            return {"type": "string", "maxLength": random_.randint(0, 6)}
        case 1:
            low = random_.randint(0, 3)
            return {"type": "string", "minLength": low, "maxLength": low + 3}
        case 2:
            return {"type": "string", "pattern": random_.choice(_PATTERNS)}
        case 3:
            return {"type": "string", "format": random_.choice(_FORMATS)}
        case 4:
            return {"type": "integer", **_range(random_, 0)}
        case 5:
            return {"type": "number", **_range(random_, 2)}
        case 6:
            values: list[Any] = ["red", "green", "ß", 'say "x"', 7, -1.5, True, None, "", [1, 2], {"k": "v"}]
            return {"enum": random_.sample(values, random_.randint(1, 4))}
        case 7:
            return {"const": random_.choice(["fixed", 3, None, {"a": [1]}, False])}
        case 8:
            return {"type": "boolean"}
        case 9:
            return {"type": random_.sample(["null", "boolean", "integer"], 2)}
        case 10:
            return {"type": "string", "enum": random_.sample(["a", "bb", "ccc"], 2), "description": "picked"}
        case _:
            return {"type": "null"}


def _range(random_: random.Random, digits: int) -> Schema:
    low = round(random_.uniform(-150, 150), digits)
    high = round(low + random_.uniform(1, 1000), digits)
    if digits == 0:
        low, high = int(low), int(high)
    names = random_.choice((("minimum", "maximum"), ("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum")))
    both: Schema = dict(zip(names, (low, high), strict=True))
    if digits == 0 and random_.random() < 0.3:
        both.pop(names[random_.randrange(2)])
    return both
