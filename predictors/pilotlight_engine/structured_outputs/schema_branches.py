"""Branches of a schema: what a reference stands for, and whether nothing is of two of them. Pure."""

from __future__ import annotations

from typing import Any


def referred(schema: Any, root: dict[str, Any]) -> Any:
    """What `{"$ref": "#/$defs/…"}` stands for, one step; any other schema itself."""
    if not isinstance(schema, dict) or schema.keys() != {"$ref"} or not isinstance(schema["$ref"], str):
        return schema
    found: Any = root
    hash_, *steps = schema["$ref"].split("/")
    if hash_ != "#" or not all(step.isidentifier() or step == "$defs" for step in steps):
        return schema
    for step in steps:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else schema


def are_apart(branches: list[Any]) -> bool:
    """Nothing is of two of these, as their types or a property that tells them apart show."""
    return all(_tells_apart(one, other) for number, one in enumerate(branches) for other in branches[number + 1 :])


def _tells_apart(one: Any, other: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    types = one.get("type"), other.get("type")
    if all(isinstance(name, str) for name in types) and types[0] != types[1]:
        return set(types) != {"integer", "number"}
    shared = (required_of(one) or set()) & (required_of(other) or set())
    return any(_constants(one, name) and not _overlap(one, other, name) for name in shared)


def _overlap(one: dict[str, Any], other: dict[str, Any], name: str) -> bool:
    others = _constants(other, name)
    return not others or any(value in others for value in _constants(one, name))


def _constants(schema: dict[str, Any], name: str) -> list[Any]:
    properties = schema.get("properties")
    declared = properties.get(name) if isinstance(properties, dict) else None
    if not isinstance(declared, dict):
        return []
    values = declared.get("enum")
    return values if isinstance(values, list) else [declared["const"]] if "const" in declared else []


def required_of(schema: dict[str, Any]) -> set[str] | None:
    names = schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return set(names)
