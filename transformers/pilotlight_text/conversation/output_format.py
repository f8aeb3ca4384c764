"""What a surface's request says of its output's shape, as the constraint that the engine enforces. Pure.

Strict or not, what comes matches: there is no reason to enforce less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs

Json = Mapping[str, Any]


def format_outputs(given: Json | None, where: str) -> StructuredOutputs | None:
    """`given`: `{"type": "json_schema", "schema": …}`, `{"type": "json_object"}` or `{"type": "text"}`. Raises
    InvalidInput that names what is wrong below `where`."""
    kind = given.get("type") if given else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    if kind != "json_schema":
        raise InvalidInput(f"'{where}.type' must be 'text', 'json_object' or 'json_schema'", param=f"{where}.type")
    assert given is not None
    if not isinstance(given.get("schema"), dict):
        raise InvalidInput(f"'{where}.schema' must be a JSON schema", param=f"{where}.schema")
    if given.get("strict") not in (None, True, False):
        raise InvalidInput(f"'{where}.strict' must be true or false", param=f"{where}.strict")
    return constraint({"json": given["schema"]}, f"{where}.schema")


def constraint(given: Json, where: str) -> StructuredOutputs:
    """vLLM's own words for it. Raises InvalidInput."""
    try:
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, StructuredOutputs)
    except msgspec.ValidationError as error:
        message = str(error)
        raise InvalidInput(f"'{where}': {message[:1].lower()}{message[1:]}", param=where) from None
