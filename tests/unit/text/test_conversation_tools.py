"""Tools and tool choices: what is taken, and the name under which all else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.conversation.conversation import FunctionTool, ToolChoice
from pilotlight_text.conversation.tools import MAX_TOOLS, read_tool_choice, read_tools, template_tools

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(name: Any = "weather", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def test_tools_are_typed_and_shown_to_templates() -> None:
    tools = read_tools([tool(description="d", parameters=SCHEMA, strict=True), tool("now", strict=None)])
    assert tools == (FunctionTool("weather", "d", SCHEMA, True), FunctionTool("now"))
    first, second = template_tools(tools)
    assert first == tool(description="d", parameters=SCHEMA)
    assert second == tool("now", parameters={"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ([1], "tools[0]"),
        ([{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].function.name"),
        ([{"type": "function", "function": {}}], "tools[0].function.name"),
        ([tool("a b")], "tools[0].function.name"),
        ([tool("ä")], "tools[0].function.name"),
        ([tool("x" * 65)], "tools[0].function.name"),
        ([tool("x\n")], "tools[0].function.name"),
        ([tool(1)], "tools[0].function.name"),
        ([tool(), tool()], "tools[1].function.name"),
        ([tool(description=1)], "tools[0].function.description"),
        ([tool(strict="yes")], "tools[0].function.strict"),
        ([tool(parameters=[])], "tools[0].function.parameters"),
        ([tool(parameters={"type": "array"})], "tools[0].function.parameters"),
        ([tool(f"t{place}") for place in range(MAX_TOOLS + 1)], "tools"),
    ],
)
def test_bad_tools_are_refused_by_name(raw: list[Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_tools(raw)
    assert caught.value.param == param


TOOLS = read_tools([tool(), tool("now")])


@pytest.mark.parametrize(
    ("raw", "names", "choice"),
    [
        (None, ["weather", "now"], ToolChoice("auto")),
        ("auto", ["weather", "now"], ToolChoice("auto")),
        ("none", ["weather", "now"], ToolChoice("none")),
        ("required", ["weather", "now"], ToolChoice("required")),
        (tool("now"), ["weather", "now"], ToolChoice("named", "now")),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("now")]}},
            ["now"],
            ToolChoice("required"),
        ),
    ],
)
def test_choices(raw: Any, names: list[str], choice: ToolChoice) -> None:
    tools, read = read_tool_choice(raw, TOOLS)
    assert ([tool.name for tool in tools], read) == (names, choice)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ("any", "tool_choice"),
        (1, "tool_choice.type"),
        ({"type": "custom"}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function.name"),
        (tool("other"), "tool_choice.function.name"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, "tool_choice.allowed_tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": [tool()]}},
            "tool_choice.allowed_tools.mode",
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("x")]}},
            "tool_choice.allowed_tools.tools",
        ),
    ],
)
def test_bad_choices_are_refused_by_name(raw: Any, param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_tool_choice(raw, TOOLS)
    assert caught.value.param == param


@pytest.mark.parametrize("raw", ["required", tool()])
def test_a_call_needs_tools(raw: Any) -> None:
    with pytest.raises(InvalidInput):
        read_tool_choice(raw, ())
