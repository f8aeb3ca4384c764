"""OpenAI's response object and its output items: what is written, and what the OpenAPI document is made of. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pilotlight_text.detokenization.text_stream import Usage

Count = Annotated[int, msgspec.Meta(ge=0)]
Json = dict[str, Any]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    text: str = ""
    annotations: list[Json] = []
    logprobs: list[Json] = []


class ReasoningContent(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    text: str = ""


class MessageItem(msgspec.Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning"):
    """`content` is the reasoning itself, so there is nothing encrypted and no summary."""

    id: str
    status: ItemStatus = "in_progress"
    summary: list[Json] = []
    content: list[ReasoningContent] = []
    encrypted_content: None = None


class FunctionCallItem(msgspec.Struct, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputDetails(msgspec.Struct):
    cached_tokens: Count
    cache_write_tokens: Count = 0


class OutputDetails(msgspec.Struct):
    reasoning_tokens: Count


class ResponseUsage(msgspec.Struct):
    """`reasoning_tokens`: as many as the reasoning's text has."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class IncompleteDetails(msgspec.Struct):
    """`reason` is null where a stop string (vLLM's `stop`) cut a call: OpenAI has no word for it."""

    reason: Literal["max_output_tokens"] | None


class ResponseFailure(msgspec.Struct):
    code: Literal["server_error"]
    message: str


class ReasoningShown(msgspec.Struct):
    effort: str | None
    summary: str | None


class TextShown(msgspec.Struct):
    format: Json
    verbosity: str = "medium"


class Response(msgspec.Struct, kw_only=True):
    """What a request asked for is told back beside the output."""

    id: str
    object: Literal["response"] = "response"
    created_at: Count
    completed_at: Count | None = None
    status: ResponseStatus
    background: Literal[False] = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningShown
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float | None
    text: TextShown
    tool_choice: str | Json
    tools: list[Json]
    top_logprobs: Count
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


class DeletedResponse(msgspec.Struct):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemList(msgspec.Struct):
    """The items of one request, the newest first unless asked for otherwise."""

    data: list[Json]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class InputTokenCount(msgspec.Struct):
    input_tokens: Count
    object: Literal["response.input_tokens"] = "response.input_tokens"


def usage_object(usage: Usage) -> ResponseUsage:
    total = usage.prompt_tokens + usage.completion_tokens
    cached, reasoning = InputDetails(usage.cached_tokens), OutputDetails(usage.reasoning_tokens or 0)
    return ResponseUsage(usage.prompt_tokens, cached, usage.completion_tokens, reasoning, total)
