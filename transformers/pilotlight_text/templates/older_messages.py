"""What clients write in older ways, or beside the content, as every template reads it. Pure.

OpenAI's `function_call` and role `function` become calls and their results; a `refusal` is what the assistant said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pilotlight_text.templates.conversation_check import Message


def in_todays_words(messages: Sequence[Message]) -> list[Message]:
    """A result belongs to the last call of its function's name that has none yet."""
    out: list[Message] = []
    waiting: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        if message["role"] == "function":
            out.append(_result(message, waiting, f"call_{place}"))
            continue
        said = _with_refusal(message) if message.get("refusal") else message
        if message.get("function_call"):
            waiting.append((message["function_call"]["name"], f"call_{place}"))
            said = _with_call(said, f"call_{place}")
        out.append(said)
    return out


def _with_call(message: Message, call_id: str) -> Message:
    call = {"id": call_id, "type": "function", "function": message["function_call"]}
    return {**_without(message, ("function_call",)), "tool_calls": [call]}


def _result(message: Message, waiting: list[tuple[str, str]], otherwise: str) -> Message:
    found = next((one for one in reversed(waiting) if one[0] == message.get("name")), None)
    if found is not None:
        waiting.remove(found)
    return {**message, "role": "tool", "tool_call_id": found[1] if found is not None else otherwise}


def _with_refusal(message: Message) -> Message:
    content, refusal = message.get("content"), message["refusal"]
    if content:
        parts = [content] if isinstance(content, str) else content
        said: Any = [*parts, {"type": "refusal", "refusal": refusal}]
    else:
        said = refusal
    return {**_without(message, ("refusal",)), "content": said}


def _without(message: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in keys}
