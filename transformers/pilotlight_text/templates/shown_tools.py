"""Tools as one template shows them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_text.templates.conversation_check import Message
from pilotlight_text.templates.template_traits import TemplateTraits

_ORDER = ("name", "description", "parameters")
"""The order in which models were shown a function (transformers' `get_json_schema`), however a client sends it."""


def shown_tools(tools: Sequence[Mapping[str, Any]], traits: TemplateTraits) -> list[dict[str, Any]]:
    """`tools` of the API, `{"type": "function", "function": {…}}`, as the template's `tools`."""
    if traits.tools == "bare":
        return [_function(tool.get("function", tool)) for tool in tools]
    return [_wrapped(tool) for tool in tools]


def told_by_system(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], traits: TemplateTraits
) -> list[Message]:
    """For a template that reads them as text, from the system message: its `tools`."""
    text = json.dumps([_function(tool.get("function", tool)) for tool in tools], ensure_ascii=False)
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "tools": text}, *messages[1:]]
    empty: Any = [] if traits.form_of("system") == "parts" else ""
    return [{"role": "system", "content": empty, "tools": text}, *messages]


def _wrapped(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return dict(tool)
    rest = {key: value for key, value in tool.items() if key not in ("type", "function") and value is not None}
    return {"type": tool.get("type", "function"), "function": _function(function), **rest}


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    first = {key: function[key] for key in _ORDER if function.get(key) is not None}
    return first | {key: value for key, value in function.items() if value is not None}
