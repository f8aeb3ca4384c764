"""What xgrammar and llguidance are given for a constraint, and which of them may enforce it. Pure; imports neither.

Responsible for the rules of vLLM's `auto` (xgrammar, and llguidance for what xgrammar would not enforce), kept per
request. It must not know tokenizers, processes or vLLM.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

import msgspec

from pilotlight_engine.structured_outputs.schema_support import enforced_by_xgrammar
from pilotlight_engine.structured_outputs.schema_writing import (
    has_inexact_integers,
    has_long_strings,
    plainly,
    without_additional_properties,
    written_for_guidance,
    written_for_xgrammar,
)
from pilotlight_engine.structured_outputs.string_patterns import check_pattern, is_read_alike, written_regex
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import MAX_NESTING, StructuredOutputs, check_nesting, read_schema

Backend = Literal["xgrammar", "guidance"]
Form = Literal["json", "regex", "ebnf", "lark", "structural_tag", "json_compact"]

PARAM = "structured_outputs"
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FIRST_PRINTABLE, _DELETE = 0x20, 0x7F


class GrammarSource(msgspec.Struct, frozen=True):
    """One way to enforce a constraint: `text` in the `form` that the backend's compiler takes."""

    backend: Backend
    form: Form
    text: str


def sources_of(asked: StructuredOutputs, configured: str = "auto") -> list[GrammarSource]:
    """The ways to enforce it, the preferred one first. `configured`: vLLM's `structured_outputs_config.backend`.

    Raises InvalidInput: no backend that may be used enforces it.
    """
    allowed: tuple[Backend, ...]
    match configured:
        case "auto":
            allowed = ("xgrammar", "guidance")
        case "xgrammar" | "guidance":
            allowed = (configured,)
        case _:
            raise InvalidInput(
                f"this engine is configured for the backend '{configured}', which is not available; it takes auto, "
                "xgrammar and guidance",
                param=PARAM,
            )
    try:
        found = [source for source in _every_source(asked) if source.backend in allowed]
    except ValueError as refused:
        raise InvalidInput(str(refused), param=PARAM) from None
    if not found:
        raise InvalidInput(f"the backend '{configured}' does not enforce this constraint", param=PARAM)
    return found


def _every_source(asked: StructuredOutputs) -> list[GrammarSource]:
    name, text = asked.constraint
    match name:
        case "json":
            return _of_schema(read_schema(text), asked)
        case "json_object":
            return _of_schema({"type": "object"}, asked)
        case "regex":
            return _of_regex(text)
        case "choice":
            return [GrammarSource("xgrammar", "ebnf", _one_of(json.loads(text)))]
        case "grammar":
            return _of_grammar(text)
        case _:
            tag = read_schema(text)
            check_nesting(tag, 2 * MAX_NESTING)
            return [GrammarSource("xgrammar", "structural_tag", json.dumps(_tag(tag)))]


def _of_schema(schema: dict[str, Any], asked: StructuredOutputs) -> list[GrammarSource]:
    if asked.disable_additional_properties:
        schema = copy.deepcopy(schema)
        without_additional_properties(schema)
    schema = plainly(schema)
    sources = _by_guidance(schema, compact=asked.disable_any_whitespace)
    # xgrammar 0.2.8 writes spaces after commas whatever it is told (mlc-ai/xgrammar#945).
    if enforced_by_xgrammar(schema) and not asked.disable_any_whitespace:
        written = GrammarSource("xgrammar", "json", json.dumps(written_for_xgrammar(schema)))
        sources.insert(len(sources) if has_long_strings(schema) else 0, written)
    if not sources:
        raise InvalidInput(
            "the JSON schema has an integer of more than 2^53 beside what only a backend of 64-bit floats enforces; "
            "write such numbers as strings",
            param=PARAM,
        )
    return sources


def _of_regex(pattern: str) -> list[GrammarSource]:
    """Raises ValueError."""
    written = written_regex(pattern)
    if written is None:
        check_pattern(pattern)
        return [GrammarSource("guidance", "regex", pattern)]
    by_xgrammar = GrammarSource("xgrammar", "regex", written)
    return [by_xgrammar, GrammarSource("guidance", "regex", pattern)] if is_read_alike(pattern) else [by_xgrammar]


def _of_grammar(text: str) -> list[GrammarSource]:
    form: Form = "lark" if is_lark(text) else "ebnf"
    by_guidance = GrammarSource("guidance", form, text)
    # A schema within a grammar is one that xgrammar may pass over something in.
    return [by_guidance] if "%json" in text else [GrammarSource("xgrammar", form, text), by_guidance]


def _by_guidance(schema: dict[str, Any], *, compact: bool) -> list[GrammarSource]:
    if has_inexact_integers(schema):
        return []
    return [GrammarSource("guidance", "json_compact" if compact else "json", json.dumps(written_for_guidance(schema)))]


def _tag(tag: Any) -> Any:
    """A structural tag with its schemas as xgrammar enforces them; the older form, `structures` and `triggers`, as the
    one that it takes today. Raises InvalidInput."""
    if isinstance(tag, list):
        return [_tag(inner) for inner in tag]
    if not isinstance(tag, dict):
        return tag
    if "structures" in tag:
        return _tag(_newer_form(tag))
    written = {name: value if name == "json_schema" else _tag(value) for name, value in tag.items()}
    if tag.get("type") == "regex" and isinstance(tag.get("pattern"), str):
        written["pattern"] = written_regex(tag["pattern"])
        if written["pattern"] is None:
            raise InvalidInput(
                f"the regex {tag['pattern'][:80]!r} has an anchor within, or an escape, that cannot be enforced in a "
                "structural tag (or behind a model's reasoning)",
                param=PARAM,
            )
    if "json_schema" in tag:
        schema = plainly(tag["json_schema"])
        if not enforced_by_xgrammar(schema):
            raise InvalidInput(
                "a JSON schema in the structural tag (or behind a model's reasoning) has keywords that cannot be "
                "enforced there; leave out what goes beyond types, properties, items, enum, anyOf, lengths and ranges",
                param=PARAM,
            )
        written["json_schema"] = written_for_xgrammar(schema)
    return written


def _newer_form(tag: dict[str, Any]) -> dict[str, Any]:
    try:
        tags = [
            {
                "begin": each["begin"],
                "content": {"type": "json_schema", "json_schema": each["schema"]},
                "end": each["end"],
            }
            for each in tag["structures"]
        ]
        triggered = {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"the structural tag is incomplete: {error}", param=PARAM) from None
    return {"type": "structural_tag", "format": triggered}


def is_lark(grammar: str) -> bool:
    """As vLLM tells the two apart: EBNF defines its rules with `::=`."""
    lines = (line.partition("#")[0].partition("//")[0] for line in grammar.split("\n"))
    return not any("::=" in line for line in lines)


def _one_of(choices: list[str]) -> str:
    return "root ::= " + " | ".join(f'"{"".join(map(_escaped, choice))}"' for choice in choices)


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return f"\\u{ord(char):04x}" if ord(char) < _FIRST_PRINTABLE or ord(char) == _DELETE else char
