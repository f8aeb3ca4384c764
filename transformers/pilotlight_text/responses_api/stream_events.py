"""The events of a streamed response, as OpenAI names and shapes them, and how one is written. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_text.responses_api.answers import OutputItem, OutputText, ReasoningContent, Response


class StreamEvent(msgspec.Struct, tag_field="type", kw_only=True):
    """`sequence_number` counts a response's events from 0."""

    sequence_number: int


class ResponseCreated(StreamEvent, tag="response.created"):
    response: Response


class ResponseInProgress(StreamEvent, tag="response.in_progress"):
    response: Response


class ResponseCompleted(StreamEvent, tag="response.completed"):
    response: Response


class ResponseIncomplete(StreamEvent, tag="response.incomplete"):
    response: Response


class ResponseFailed(StreamEvent, tag="response.failed"):
    response: Response


class ItemAdded(StreamEvent, tag="response.output_item.added"):
    output_index: int
    item: OutputItem


class ItemDone(StreamEvent, tag="response.output_item.done"):
    output_index: int
    item: OutputItem


class _OfItem(StreamEvent, kw_only=True):
    item_id: str
    output_index: int


class _OfPart(_OfItem, kw_only=True):
    """Items of ours have one part."""

    content_index: int = 0


class PartAdded(_OfPart, tag="response.content_part.added"):
    part: OutputText | ReasoningContent


class PartDone(_OfPart, tag="response.content_part.done"):
    part: OutputText | ReasoningContent


class TextDelta(_OfPart, tag="response.output_text.delta"):
    delta: str
    logprobs: list[dict[str, Any]]


class TextDone(_OfPart, tag="response.output_text.done"):
    text: str
    logprobs: list[dict[str, Any]]


class ReasoningDelta(_OfPart, tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(_OfPart, tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(_OfItem, tag="response.function_call_arguments.delta"):
    delta: str


class ArgumentsDone(_OfItem, tag="response.function_call_arguments.done"):
    name: str
    arguments: str
