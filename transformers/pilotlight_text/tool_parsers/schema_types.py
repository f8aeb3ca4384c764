"""Arguments written as plain text, by the schema of their function: the JSON that a text stands for.

Pure. The order in which types are tried, and what counts as one, are vLLM's (`coerce_to_schema_type`); it does not
follow a schema's own references, which pydantic makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pilotlight_text.answer_parts.formats import DescribedFunction

_MOST_SCHEMAS = 64
"""Of one parameter, alternatives and references counted: a schema may refer to itself."""

_STRING = frozenset({"string"})
_ALIASES = {
    "str": "string", "text": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean",
    "dict": "object", "list": "array", "arr": "array",
}  # fmt: skip


def parameter_types(tools: Sequence[DescribedFunction], function: str, parameter: str) -> frozenset[str]:
    """The JSON types that the schema allows; "string" where it does not say."""
    for tool in tools:
        if tool.name == function:
            root = tool.parameters or {}
            properties = root.get("properties")
            schema = properties.get(parameter) if isinstance(properties, Mapping) else None
            return _types(schema, root) or _STRING
    return _STRING


def written_as_json(text: str, types: frozenset[str]) -> str:
    """The first type of `types` that `text` can be; where it can be none, JSON if it is some, else a string."""
    tried = [written for kind, written in _WRITTEN.items() if kind in types]
    for written in tried if "string" in types else [*tried, _json]:
        try:
            return written(text)
        except (ValueError, OverflowError, RecursionError):
            continue
    return json.dumps(text, ensure_ascii=False)


def _null(text: str) -> str:
    if text.lower() != "null":
        raise ValueError
    return "null"


def _boolean(text: str) -> str:
    said = {"1": "true", "0": "false"}.get(text.strip(), text.strip().lower())
    if said not in ("true", "false"):
        raise ValueError
    return said


def _integer(text: str) -> str:
    return json.dumps(int(text))


def _number(text: str) -> str:
    number = float(text)
    return json.dumps(int(number) if number == int(number) else number)


def _json(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, allow_nan=False)


# In the order in which they are tried; each raises ValueError or OverflowError for a text that is none.
_WRITTEN: Mapping[str, Callable[[str], str]] = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": _json,
    "array": _json,
}


def _types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    found: set[str] = set()
    waiting = [schema]
    for _ in range(_MOST_SCHEMAS):
        if not waiting:
            break
        one = waiting.pop()
        if not isinstance(one, Mapping):
            continue
        named = one.get("type")
        found.update(_plain(kind) for kind in (named if isinstance(named, list) else [named]) if isinstance(kind, str))
        values = one.get("enum")
        found.update(_type_of(value) for value in (values if isinstance(values, list) else ()))
        for alternatives in ("anyOf", "oneOf", "allOf"):
            if isinstance(one.get(alternatives), list):
                waiting += one[alternatives]
        if isinstance(one.get("$ref"), str):
            waiting.append(_referred(one["$ref"], root))
    return frozenset(found)


def _plain(kind: str) -> str:
    kind = kind.strip().lower()
    return _ALIASES.get(kind, kind)


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    names = ((bool, "boolean"), (int, "integer"), (float, "number"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "string")


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """Inside this schema only."""
    place: Any = root
    for step in reference.removeprefix("#/").split("/"):
        place = place.get(step) if isinstance(place, Mapping) else None
    return place
