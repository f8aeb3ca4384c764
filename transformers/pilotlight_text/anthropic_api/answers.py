"""Anthropic's message and its content blocks: what is written, and what the OpenAPI document is made of. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pilotlight_text.detokenization.text_stream import Usage

Count = Annotated[int, msgspec.Meta(ge=0)]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

UNSIGNED = "unsigned"
"""A thinking block must have a signature. Nothing is signed here, and nothing that comes back is checked."""


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class OutputTokensDetails(msgspec.Struct):
    thinking_tokens: Count


class MessageUsage(msgspec.Struct):
    """The prompt has `input_tokens` + `cache_read_input_tokens` tokens; what is written to the cache is not billed."""

    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count
    cache_creation_input_tokens: Count = 0
    output_tokens_details: OutputTokensDetails | None = None


class MessageAnswer(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(msgspec.Struct):
    input_tokens: Count


def usage_object(usage: Usage) -> MessageUsage:
    details = OutputTokensDetails(usage.reasoning_tokens) if usage.reasoning_tokens else None
    read = min(usage.cached_tokens, usage.prompt_tokens)
    return MessageUsage(usage.prompt_tokens - read, usage.completion_tokens, read, output_tokens_details=details)
