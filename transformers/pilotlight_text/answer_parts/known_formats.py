"""The formats of calls and of reasoning that are known here, by the names that vLLM's flags give them.

Pure. The module of a format is imported when its first answer is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from pilotlight_protocol.nearest_name import did_you_mean
from pilotlight_text.answer_parts.formats import CallFormat, ReasoningFormat

_CALLS = {
    "granite4": "marked_json:HERMES",
    "hermes": "marked_json:HERMES",
    "qwen3_json": "marked_json:HERMES",
}
_REASONING = {
    "deepseek_r1": "marked_reasoning:DEEPSEEK_R1",
    "qwen3": "marked_reasoning:QWEN3",
}


def call_format(name: str) -> CallFormat:
    found = _attribute("pilotlight_text.tool_parsers", _CALLS[name])
    assert isinstance(found, CallFormat)
    return found


def reasoning_format(name: str) -> ReasoningFormat:
    found = _attribute("pilotlight_text.reasoning_parsers", _REASONING[name])
    assert isinstance(found, ReasoningFormat)
    return found


def known_tool_parser(name: str) -> str:
    """`name`. Raises ValueError with the names that are known."""
    return _known("tool", name, _CALLS)


def known_reasoning_parser(name: str) -> str:
    return _known("reasoning", name, _REASONING)


def _known(kind: str, name: str, names: Iterable[str]) -> str:
    if name not in names:
        known = ", ".join(sorted(names))
        raise ValueError(f"there is no {kind} parser '{name[:64]}'{did_you_mean(name, names)}; known are {known}")
    return name


def _attribute(package: str, place: str) -> object:
    module, _, name = place.partition(":")
    return getattr(import_module(f"{package}.{module}"), name)
