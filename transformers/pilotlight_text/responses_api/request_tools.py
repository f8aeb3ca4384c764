"""Which functions a response may call: OpenAI's flat tools and its ways to choose among them. Pure.

Hosted tools (search, files, code, computers, MCP) are refused by name: nothing is run here.
"""

from __future__ import annotations

from typing import Any

from pilotlight_text.conversation.conversation import FunctionTool, ToolChoice
from pilotlight_text.conversation.flat_tools import function_name, named, read_flat_tools, refused, required

Json = dict[str, Any]
Tools = tuple[FunctionTool, ...]


def read_response_tools(tools: list[Json]) -> Tools:
    """Raises InvalidInput with `param`."""
    for place, tool in enumerate(tools):
        if tool.get("async"):
            raise refused(f"tools[{place}].async", "is not supported: a call is answered by the next request")
    return read_flat_tools(tools, "parameters", ("function",))


def read_response_choice(choice: str | Json | None, tools: Tools) -> tuple[Tools, ToolChoice]:
    """The functions that may be called, and whether one must be. Raises InvalidInput with `param`."""
    if choice is None or choice == "auto":
        return tools, ToolChoice()
    if choice == "none":
        return tools, ToolChoice("none")
    if choice == "required":
        return tools, required(tools)
    if isinstance(choice, dict) and choice.get("type") == "function":
        return tools, named(choice.get("name"), tools, "tool_choice.name")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice, tools)
    raise refused(
        "tool_choice",
        "must be 'auto', 'none', 'required', a tool of type 'function', or 'allowed_tools'; hosted tools are not run",
    )


def _allowed(choice: Json, tools: Tools) -> tuple[Tools, ToolChoice]:
    """The others are not shown to the model."""
    listed, mode = choice.get("tools"), choice.get("mode")
    if not isinstance(listed, list) or not listed:
        raise refused("tool_choice.tools", "must be a list of tools")
    if mode not in ("auto", "required"):
        raise refused("tool_choice.mode", "must be 'auto' or 'required'")
    names = set()
    for place, tool in enumerate(listed):
        where = f"tool_choice.tools[{place}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise refused(where, "must be a tool of type 'function'")
        named(function_name(f"{where}.name", tool.get("name")), tools, f"{where}.name")
        names.add(tool["name"])
    return tuple(tool for tool in tools if tool.name in names), ToolChoice(mode)


def echoed_tools(tools: list[Json]) -> list[Json]:
    """As the answer's `tools` has them: what was left out is null."""
    return [{"description": None, "parameters": None, "strict": None, **tool} for tool in tools]
