"""What xgrammar and llguidance are given for a constraint, and which of them may enforce it. Pure; imports neither.

Responsible for the rules of vLLM's `auto` (xgrammar, and llguidance for what xgrammar would not enforce), kept per
request. It must not know tokenizers, processes or vLLM.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

import msgspec

from pilotlight_engine.structured_outputs.schema_support import (
    enforced_by_xgrammar,
    has_long_strings,
    without_additional_properties,
    written_for_guidance,
    written_for_xgrammar,
)
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs, read_schema

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
    found = [source for source in _every_source(asked) if source.backend in allowed]
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
            return [GrammarSource("xgrammar", "regex", text), GrammarSource("guidance", "regex", text)]
        case "choice":
            return [GrammarSource("xgrammar", "ebnf", _one_of(json.loads(text)))]
        case "grammar":
            form: Form = "lark" if is_lark(text) else "ebnf"
            return [GrammarSource("xgrammar", form, text), GrammarSource("guidance", form, text)]
        case _:
            return [GrammarSource("xgrammar", "structural_tag", json.dumps(_tag(read_schema(text))))]


def _of_schema(schema: dict[str, Any], asked: StructuredOutputs) -> list[GrammarSource]:
    if asked.disable_additional_properties:
        schema = copy.deepcopy(schema)
        without_additional_properties(schema)
    text = json.dumps(written_for_guidance(schema))
    if asked.disable_any_whitespace:
        # xgrammar 0.2.8 writes spaces after commas all the same (mlc-ai/xgrammar#945).
        return [GrammarSource("guidance", "json_compact", text)]
    by_guidance = GrammarSource("guidance", "json", text)
    if not enforced_by_xgrammar(schema):
        return [by_guidance]
    by_xgrammar = GrammarSource("xgrammar", "json", json.dumps(written_for_xgrammar(schema)))
    return [by_guidance, by_xgrammar] if has_long_strings(schema) else [by_xgrammar, by_guidance]


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
    if "json_schema" in tag:
        if not enforced_by_xgrammar(tag["json_schema"]):
            raise InvalidInput(
                "a JSON schema in the structural tag (or behind a model's reasoning) has keywords that cannot be "
                "enforced there; leave out what goes beyond types, properties, items, enum, anyOf, lengths and ranges",
                param=PARAM,
            )
        written["json_schema"] = written_for_xgrammar(tag["json_schema"])
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
