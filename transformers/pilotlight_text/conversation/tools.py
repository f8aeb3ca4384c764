"""Tools and their choice as OpenAI's chat requests write them, checked and typed. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

from msgspec import structs

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import check_nesting
from pilotlight_text.conversation.conversation import Conversation, FunctionTool, ToolChoice

MAX_TOOLS = 128
"""OpenAI's bound."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_KEYS = frozenset({"type", "function", "cache_control"})
_FUNCTION_KEYS = frozenset({"name", "description", "parameters", "strict", "cache_control"})
_MODES = ("auto", "none", "required")


def with_tools(conversation: Conversation, tools: Sequence[Any], tool_choice: Any) -> Conversation:
    """Raises InvalidInput that names the field."""
    allowed, choice = read_tool_choice(tool_choice, read_tools(tools))
    return structs.replace(conversation, tools=allowed, tool_choice=choice)


def read_tools(raw: Sequence[Any], where: str = "tools") -> tuple[FunctionTool, ...]:
    """Raises InvalidInput that names the field."""
    if len(raw) > MAX_TOOLS:
        _refuse(where, f"has {len(raw)} tools; at most {MAX_TOOLS} are taken")
    tools = tuple(_tool(tool, f"{where}[{place}]") for place, tool in enumerate(raw))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            _refuse(f"{where}[{place}].function.name", f"is '{name}' a second time; each tool needs a name of its own")
    return tools


def read_tool_choice(
    raw: Any, tools: tuple[FunctionTool, ...], where: str = "tool_choice"
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """The tools that may be called, and whether one must be. `allowed_tools` leaves the others out."""
    if raw is None:
        return tools, ToolChoice()
    if isinstance(raw, str):
        if raw not in _MODES:
            _refuse(where, f"is '{raw[:64]}'; send 'auto', 'none', 'required' or a function's name")
        if raw == "required" and not tools:
            _refuse(where, "is 'required', but there are no 'tools'")
        return tools, ToolChoice(raw)  # type: ignore[arg-type]
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if kind == "allowed_tools":
        return _allowed(raw, tools, f"{where}.allowed_tools")
    if kind != "function":
        _refuse(f"{where}.type", "must be 'function' or 'allowed_tools'")
    name = _function_name(raw, where)
    if all(tool.name != name for tool in tools):
        _refuse(f"{where}.function.name", f"is '{name}', which is none of the 'tools'")
    return tools, ToolChoice("named", name)


def template_tools(tools: Sequence[FunctionTool]) -> list[dict[str, Any]]:
    """Tools as templates read them."""
    shown = []
    for tool in tools:
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = arguments_schema(tool)
        shown.append({"type": "function", "function": function})
    return shown


def arguments_schema(tool: FunctionTool) -> Mapping[str, Any]:
    return tool.parameters if tool.parameters else {"type": "object", "properties": {}}


def _tool(raw: Any, where: str) -> FunctionTool:
    if not isinstance(raw, Mapping):
        _refuse(where, "must be an object")
    if raw.get("type", "function") != "function":
        _refuse(f"{where}.type", "must be 'function'; other kinds of tools are not available")
    function = raw.get("function")
    name = _function_name(raw, where)
    assert isinstance(function, Mapping)
    if not _NAME.fullmatch(name):
        _refuse(f"{where}.function.name", "must be 1 to 64 letters, digits, underscores and dashes")
    description, strict = function.get("description"), function.get("strict")
    if not isinstance(description, str | None):
        _refuse(f"{where}.function.description", "must be a string")
    if not isinstance(strict, bool | None):
        _refuse(f"{where}.function.strict", "must be true or false")
    parameters = function.get("parameters")
    if parameters is not None and (not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object"):
        _refuse(f"{where}.function.parameters", "must be a JSON schema of type 'object'")
    try:
        check_nesting(parameters or {})
    except ValueError as error:
        _refuse(f"{where}.function.parameters", f"cannot be read: {error}")
    unread = (*unread_keys("tools", raw, _TOOL_KEYS), *unread_keys("tools.function", function, _FUNCTION_KEYS))
    return FunctionTool(name, description, parameters, bool(strict), unread)


def unread_keys(where: str, given: Mapping[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """Those that say something, and are none of the `known`."""
    return tuple(f"{where}.{key}" for key, value in given.items() if value and key not in known)


def _allowed(
    raw: Mapping[str, Any], tools: tuple[FunctionTool, ...], where: str
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    allowed = raw.get("allowed_tools")
    entries = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(allowed, Mapping) or not isinstance(entries, list) or not entries:
        _refuse(where, "must be an object with 'mode' and 'tools'")
    mode = allowed.get("mode")
    if mode not in ("auto", "required"):
        _refuse(f"{where}.mode", "must be 'auto' or 'required'")
    names = {_function_name(entry, f"{where}.tools[{place}]") for place, entry in enumerate(entries)}
    unknown = names.difference(tool.name for tool in tools)
    if unknown:
        _refuse(f"{where}.tools", f"has '{min(unknown)[:64]}', which is none of the 'tools'")
    return tuple(tool for tool in tools if tool.name in names), ToolChoice(mode)


def _function_name(raw: Any, where: str) -> str:
    function = raw.get("function") if isinstance(raw, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        _refuse(f"{where}.function.name", "is missing")
    return name


def _refuse(param: str, why: str) -> NoReturn:
    raise InvalidInput(f"'{param}' {why}", param=param)
