"""OpenAI's answers, whole and in chunks: what is written, and what the OpenAPI document is made of. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from pilotlight_text.conversation.choices import ChoiceEnd
from pilotlight_text.detokenization.text_stream import EndReason, Usage

Count = Annotated[int, msgspec.Meta(ge=0)]
Logprobs = dict[str, Any] | None
StopReason = str | int | None
Unset = msgspec.UnsetType
TokenIds = list[Count] | Unset
PromptLogprobs = list[dict[str, dict[str, Any]] | None] | Unset


class PromptDetails(msgspec.Struct):
    cached_tokens: Count


class CompletionDetails(msgspec.Struct):
    """`reasoning_tokens`: as many as the reasoning's text has, its marks not counted."""

    reasoning_tokens: Count


class TokenUsage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | Unset = msgspec.UNSET


def usage_object(usage: Usage) -> TokenUsage:
    total = usage.prompt_tokens + usage.completion_tokens
    details = msgspec.UNSET if usage.reasoning_tokens is None else CompletionDetails(usage.reasoning_tokens)
    return TokenUsage(usage.prompt_tokens, usage.completion_tokens, total, PromptDetails(usage.cached_tokens), details)


class CalledFunction(msgspec.Struct):
    """`arguments`: JSON text. In chunks the first of a call has the name, the others more of the arguments."""

    arguments: str
    name: str | Unset = msgspec.UNSET


class MessageToolCall(msgspec.Struct):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(msgspec.Struct):
    """`reasoning_content` and `reasoning` are the same text, by the names that different clients read."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | Unset = msgspec.UNSET
    reasoning: str | Unset = msgspec.UNSET
    tool_calls: list[MessageToolCall] | Unset = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    index: Count
    message: AssistantMessage
    logprobs: Logprobs
    finish_reason: ChoiceEnd
    stop_reason: StopReason
    token_ids: TokenIds = msgspec.UNSET


class ChatCompletion(msgspec.Struct):
    """The last three are vLLM's, for who asks for them."""

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[list[ChatChoice], msgspec.Meta(min_length=1)]
    usage: TokenUsage
    prompt_logprobs: PromptLogprobs = msgspec.UNSET
    prompt_token_ids: TokenIds = msgspec.UNSET
    prompt_text: str | Unset = msgspec.UNSET


class ToolCallDelta(msgspec.Struct):
    """The first of a call has its id, type and name."""

    index: Count
    function: CalledFunction
    id: str | Unset = msgspec.UNSET
    type: Literal["function"] | Unset = msgspec.UNSET


class Delta(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] | Unset = msgspec.UNSET
    content: str | Unset | None = msgspec.UNSET
    reasoning_content: str | Unset = msgspec.UNSET
    reasoning: str | Unset = msgspec.UNSET
    tool_calls: list[ToolCallDelta] | Unset = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct):
    """The last one of a choice has its reasons."""

    index: Count
    delta: Delta
    logprobs: Logprobs = None
    finish_reason: ChoiceEnd | None = None
    stop_reason: StopReason | Unset = msgspec.UNSET
    token_ids: TokenIds = msgspec.UNSET


class ChatChunk(msgspec.Struct):
    """`usage`: left out, or null until the last chunk, which has no choices (`stream_options.include_usage`), or in
    every one (`continuous_usage_stats`). What is of the prompt stands in the first."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | Unset | None = msgspec.UNSET
    prompt_token_ids: TokenIds = msgspec.UNSET
    prompt_text: str | Unset = msgspec.UNSET


class CompletionChoice(msgspec.Struct):
    """The last three are vLLM's, for who asks for them."""

    index: Count
    text: str
    logprobs: Logprobs
    finish_reason: EndReason
    stop_reason: StopReason
    token_ids: TokenIds = msgspec.UNSET
    prompt_token_ids: TokenIds = msgspec.UNSET
    prompt_logprobs: PromptLogprobs = msgspec.UNSET


class Completion(msgspec.Struct):
    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    choices: Annotated[list[CompletionChoice], msgspec.Meta(min_length=1)]
    usage: TokenUsage


class CompletionChunkChoice(msgspec.Struct):
    index: Count
    text: str
    logprobs: Logprobs = None
    finish_reason: EndReason | None = None
    stop_reason: StopReason | Unset = msgspec.UNSET
    token_ids: TokenIds = msgspec.UNSET
    prompt_token_ids: TokenIds = msgspec.UNSET


class CompletionChunk(msgspec.Struct):
    """As ChatChunk."""

    id: str
    object: Literal["text_completion"]
    created: Count
    model: str
    choices: list[CompletionChunkChoice]
    usage: TokenUsage | Unset | None = msgspec.UNSET
