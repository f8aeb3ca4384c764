"""From the name of a format to the module that reads it, imported with the first answer in it. Pure."""

from __future__ import annotations

from importlib import import_module

from pilotlight_text.answer_parts.format_names import CALLS, REASONING
from pilotlight_text.answer_parts.formats import CallFormat, ReasoningFormat


def call_format(name: str) -> CallFormat:
    found = _attribute("pilotlight_text.tool_parsers", CALLS[name])
    assert isinstance(found, CallFormat)
    return found


def reasoning_format(name: str) -> ReasoningFormat:
    found = _attribute("pilotlight_text.reasoning_parsers", REASONING[name])
    assert isinstance(found, ReasoningFormat)
    return found


def _attribute(package: str, place: str) -> object:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{package}.{module}"), name)
