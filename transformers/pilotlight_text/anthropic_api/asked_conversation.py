"""From a request for a message to the conversation that answers it. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.anthropic_api.content_blocks import chat_messages, continues
from pilotlight_text.anthropic_api.requests import CountTokensRequest
from pilotlight_text.conversation.conversation import Conversation, FunctionTool, TemplateOptions, ToolChoice
from pilotlight_text.conversation.flat_tools import named, read_flat_tools, refused, required

Json = dict[str, Any]

_CUSTOM = ("custom", None)
"""The `type` of a function; Anthropic's own tools (search, code, shells, editors, computers) have names of theirs."""
_CALLED = {
    "reasoning_effort": "output_config.effort",
    "chat_template_kwargs.enable_thinking": "thinking",
    "messages.reasoning_content": "messages.content.thinking",
    "messages": "messages",
}


def conversation_of(request: CountTokensRequest, parameters: GenerationParameters) -> Conversation:
    """Raises InvalidInput with `param`."""
    messages = chat_messages(request.system, request.messages)
    tools = read_flat_tools(request.tools or [], "input_schema", _CUSTOM)
    for place, tool in enumerate(tools):
        if tool.parameters is None:
            raise refused(f"tools[{place}].input_schema", "is missing")
    choice = request.tool_choice or {"type": "auto"}
    return Conversation(
        request.model,
        messages,
        parameters,
        tools,
        _choice(choice, tools),
        parallel_tool_calls=not choice.get("disable_parallel_tool_use"),
        template=TemplateOptions(
            _variables(request),
            reasoning_effort=request.output_config.effort if request.output_config is not None else None,
            continue_final_message=continues(messages),
            called=_CALLED,
        ),
        format_field="output_config.format",
    )


def _choice(choice: Json, tools: tuple[FunctionTool, ...]) -> ToolChoice:
    kind = choice.get("type")
    if kind == "auto":
        return ToolChoice()
    if kind == "none":
        return ToolChoice("none")
    if kind == "any":
        return required(tools)
    if kind == "tool":
        return named(choice.get("name"), tools, "tool_choice.name")
    raise refused("tool_choice.type", "must be 'auto', 'any', 'tool' or 'none'")


def _variables(request: CountTokensRequest) -> Json | None:
    """`thinking` is what templates call `enable_thinking`; left out, and adaptive, the template decides."""
    thinking = request.thinking
    if thinking is None or thinking.type == "adaptive":
        return request.chat_template_kwargs
    return {"enable_thinking": thinking.type == "enabled", **(request.chat_template_kwargs or {})}
