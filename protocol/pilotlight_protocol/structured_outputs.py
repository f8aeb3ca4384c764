"""What an output must look like: the one constraint of a request that structured output enforces. Pure.

Responsible for its names, that there is exactly one, and the size beyond which nobody compiles it. It must not know how
it is enforced: a struct that is well formed here may still be refused by the engine that compiles it.
"""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

MAX_CONSTRAINT_CHARS = 256 * 1024
MAX_CHOICES_TO_PICK = 4096
MAX_NESTING = 64
"""Objects and arrays within each other, of a schema. vLLM's own limit is the same."""

CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONSTRAINT_CHARS)]


class StructuredOutputs(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """vLLM's `StructuredOutputsParams`: exactly one of the six constraints.

    `json`: a JSON schema, as an object or as text. `regex`: the whole output matches it. `choice`: the output is one of
    these. `grammar`: EBNF or Lark, as the backends take it. `json_object`: any JSON object. `structural_tag`: JSON text
    of xgrammar's structural tags. `disable_any_whitespace`: JSON without whitespace between its tokens.
    `disable_additional_properties`: an object has the properties of its schema only, unless the schema says otherwise.
    `whitespace_pattern` is known so that it is refused by its own name; no backend here takes one.
    """

    json: dict[str, Any] | _Text | None = None
    regex: Annotated[str, msgspec.Meta(max_length=MAX_CONSTRAINT_CHARS)] | None = None
    choice: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_CHOICES_TO_PICK)] | None = None
    grammar: _Text | None = None
    json_object: bool | None = None
    structural_tag: _Text | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"not {' and '.join(given)} together" if given else "none is given"
            raise ValueError(f"exactly one of {', '.join(CONSTRAINTS)} is taken; {found}")
        if self.json_object is False:
            raise ValueError("json_object must be true; leave it out for an unconstrained output")
        if self.whitespace_pattern is not None:
            raise ValueError("whitespace_pattern is not available; disable_any_whitespace is")
        if self.choice is not None and sum(map(len, self.choice)) > MAX_CONSTRAINT_CHARS:
            raise ValueError(f"choice has more than {MAX_CONSTRAINT_CHARS} characters in all")
        if self.regex is not None and "\0" in self.regex:
            raise ValueError("regex must not contain a NUL character")
        if isinstance(self.json, dict):
            check_nesting(self.json)
            if len(json_text.dumps(self.json)) > MAX_CONSTRAINT_CHARS:
                raise ValueError(f"the JSON schema has more than {MAX_CONSTRAINT_CHARS} characters")
        elif self.json is not None:
            check_nesting(read_schema(self.json))

    @property
    def constraint(self) -> tuple[str, str]:
        """(which of `CONSTRAINTS`, the constraint as text): two requests with the same pair want the same output."""
        (name,) = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        value = getattr(self, name)
        return name, value if isinstance(value, str) else json_text.dumps(value)


def read_schema(text: str) -> dict[str, Any]:
    """Raises ValueError: it is not the text of a JSON object."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the JSON schema is not valid JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError("the JSON schema must be a JSON object")
    return schema


def check_nesting(schema: Mapping[str, Any], most: int = MAX_NESTING) -> None:
    """Raises ValueError."""
    level: list[Any] = [schema]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"the JSON schema is nested more than {most} levels deep")
