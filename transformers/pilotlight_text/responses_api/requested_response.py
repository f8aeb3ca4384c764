"""From a request to the conversation that answers it, and to the response object as it is before there is an answer.

Pure. What the request left out is told back as what was done instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pilotlight_text.conversation.constraint_field import CONSTRAINT
from pilotlight_text.conversation.conversation import Conversation, TemplateOptions
from pilotlight_text.responses_api.answers import ReasoningShown, Response, TextShown
from pilotlight_text.responses_api.input_items import as_items, continues, messages_of
from pilotlight_text.responses_api.request_tools import echoed_tools, read_response_choice, read_response_tools
from pilotlight_text.responses_api.requests import ResponsesRequest, responses_parameters

Json = dict[str, Any]

_CALLED = {"reasoning_effort": "reasoning.effort", "messages.reasoning_content": "input.reasoning", "messages": "input"}


def conversation_of(request: ResponsesRequest, history: Sequence[Json]) -> Conversation:
    """Raises InvalidInput with `param`."""
    items = as_items(request.input)
    tools, choice = read_response_choice(request.tool_choice, read_response_tools(request.tools or []))
    return Conversation(
        request.model,
        messages_of(items, request.instructions, history),
        responses_parameters(request),
        tools,
        choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        template=TemplateOptions(
            request.chat_template_kwargs,
            reasoning_effort=request.reasoning.effort if request.reasoning is not None else None,
            continue_final_message=continues(items),
            called=_CALLED,
        ),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        include_reasoning=request.include_reasoning is not False,
        skip_special_tokens=request.skip_special_tokens is not False,
        format_field="text.format" if request.structured_outputs is None else CONSTRAINT,
    )


def response_of(request: ResponsesRequest, response_id: str, now_s: int) -> Response:
    reasoning, text = request.reasoning, request.text
    return Response(
        id=response_id,
        created_at=now_s,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=None if request.max_output_tokens is None else int(request.max_output_tokens),
        max_tool_calls=None if request.max_tool_calls is None else int(request.max_tool_calls),
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningShown(reasoning.effort if reasoning else None, reasoning.summary if reasoning else None),
        safety_identifier=request.safety_identifier,
        store=request.store is not False,
        temperature=request.temperature,
        text=TextShown((text.format if text is not None else None) or {"type": "text"}),
        tool_choice=request.tool_choice or "auto",
        tools=echoed_tools(request.tools or []),
        top_logprobs=int(request.top_logprobs or 0),
        top_p=request.top_p,
        user=request.user,
        metadata=request.metadata or {},
    )


def listed_items(items: Sequence[Json], new_id: Callable[[str], str]) -> list[Json]:
    """Input items as they are listed later: each has an id, a message its parts."""
    return [_listed(item, new_id) for item in items]


def _listed(item: Json, new_id: Callable[[str], str]) -> Json:
    kind = item.get("type") or "message"
    named = {"id": item.get("id") or new_id(_PREFIXES.get(kind, "item")), "type": kind, "status": "completed"}
    listed = {**named, **{key: value for key, value in item.items() if value is not None}}
    if kind == "message" and isinstance(item["content"], str):
        part = "output_text" if item["role"] == "assistant" else "input_text"
        listed["content"] = [{"type": part, "text": item["content"]}]
    return listed


_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
