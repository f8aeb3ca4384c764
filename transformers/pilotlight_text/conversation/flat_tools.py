"""Tools as Responses and Messages write them: name, description and schema beside each other. Checked and typed. Pure.

Chat's, one level deeper, are read in `tools`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.conversation.conversation import FunctionTool, ToolChoice
from pilotlight_text.conversation.tools import MAX_TOOLS, unread_keys

_KEYS = (
    *("type", "name", "description", "strict", "defer_loading", "allowed_callers", "async"),
    *("cache_control", "eager_input_streaming"),  # a prefix is cached, and arguments are streamed, without being asked
)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def read_flat_tools(tools: Sequence[Any], schema: str, kinds: Sequence[str | None]) -> tuple[FunctionTool, ...]:
    """`schema`: the key of a tool's JSON schema; `kinds`: which `type` a function has. Raises InvalidInput."""
    if len(tools) > MAX_TOOLS:
        raise refused("tools", f"has {len(tools)} tools; at most {MAX_TOOLS} are taken")
    read = tuple(_tool(f"tools[{place}]", tool, schema, kinds) for place, tool in enumerate(tools))
    names = [tool.name for tool in read]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise refused(f"tools[{place}].name", f"is '{name}' a second time; each tool needs a name of its own")
    return read


def _tool(where: str, tool: Any, schema: str, kinds: Sequence[str | None]) -> FunctionTool:
    if not isinstance(tool, Mapping):
        raise refused(where, "must be an object")
    kind = tool.get("type")
    if kind not in kinds:
        raise refused(
            f"{where}.type", f"is '{str(kind)[:64]}'; such tools are not run here, send functions ('{kinds[0]}')"
        )
    if tool.get("defer_loading"):
        raise refused(f"{where}.defer_loading", "is not supported: the model is shown all tools")
    callers = tool.get("allowed_callers")
    if callers and not (isinstance(callers, list) and "direct" in callers):
        raise refused(f"{where}.allowed_callers", "must have 'direct': no code runs here that could call tools")
    description, strict, parameters = tool.get("description"), tool.get("strict"), tool.get(schema)
    if not isinstance(description, str | None):
        raise refused(f"{where}.description", "must be a string")
    if not isinstance(strict, bool | None):
        raise refused(f"{where}.strict", "must be true or false")
    if parameters is not None and (not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object"):
        raise refused(f"{where}.{schema}", "must be a JSON schema of type 'object'")
    name, unread = function_name(f"{where}.name", tool.get("name")), unread_keys("tools", tool, {schema, *_KEYS})
    return FunctionTool(name, description, parameters, bool(strict), unread)


def required(tools: tuple[FunctionTool, ...], where: str = "tool_choice") -> ToolChoice:
    if not tools:
        raise refused(where, "demands a call, but there are no 'tools'")
    return ToolChoice("required")


def named(name: Any, tools: tuple[FunctionTool, ...], where: str) -> ToolChoice:
    if function_name(where, name) not in [tool.name for tool in tools]:
        raise refused(where, f"is '{name[:64]}', which is none of the 'tools'")
    return ToolChoice("named", name)


def function_name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refused(where, "must be 1 to 128 letters, digits, underscores and dashes")
    return name


def refused(param: str, why: str) -> InvalidInput:
    return InvalidInput(f"'{param}' {why}", param=param)
