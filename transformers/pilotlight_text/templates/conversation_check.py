"""What a conversation of the API must be before a template sees it. Pure.

Responsible for refusing by name what is no message, and what is no text: images, audio, files. It must not know what a
template wants, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_protocol.errors import InvalidInput

Message = Mapping[str, Any]

TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}
"""Types of content parts that are text (those of vLLM's chat), and the key that has it."""

_TEXT_ONLY = "this model reads text only;"
_NEEDS_CONTENT = frozenset({"system", "developer", "user"})
"""Roles whose turn without content is a mistake; an assistant's has its calls, a tool's result may be empty."""


def check_conversation(messages: Sequence[Message]) -> int:
    """The characters in it. Raises InvalidInput naming the place: `messages[0].content[1]`."""
    return sum(_check_message(f"messages[{place}]", message) for place, message in enumerate(messages))


def _check_message(where: str, message: Message) -> int:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidInput(f"'{where}.role' must be a string such as 'user'", param=f"{where}.role")
    content = message.get("content")
    if isinstance(content, str):
        chars = len(content)
    elif isinstance(content, list):
        chars = sum(len(part_text(f"{where}.content[{place}]", part)) for place, part in enumerate(content))
    elif content is not None:
        raise InvalidInput(f"'{where}.content' must be a string or a list of parts", param=f"{where}.content")
    elif role in _NEEDS_CONTENT:
        raise InvalidInput(f"'{where}.content' is missing", param=f"{where}.content")
    else:
        chars = 0
    return chars if len(message) == 2 and content is not None else chars + _check_beside_content(where, message)


def _check_beside_content(where: str, message: Message) -> int:
    if message.get("audio"):
        raise InvalidInput(f"'{where}.audio': {_TEXT_ONLY} send what was said as 'content'", param=f"{where}.audio")
    calls, older, refusal = message.get("tool_calls"), message.get("function_call"), message.get("refusal")
    chars = 0 if calls is None else _check_calls(f"{where}.tool_calls", calls)
    if older:
        if calls or message["role"] != "assistant":
            raise InvalidInput(
                f"'{where}.function_call' stands in an assistant's message without 'tool_calls', its successor",
                param=f"{where}.function_call",
            )
        chars += _check_call(f"{where}.function_call", older)
    if refusal is not None:
        if not isinstance(refusal, str):
            raise InvalidInput(f"'{where}.refusal' must be a string", param=f"{where}.refusal")
        chars += len(refusal)
    return chars


def part_text(where: str, part: Any) -> str:
    """A part's text; one whose text is null has none. Raises InvalidInput: it is no text."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise InvalidInput(f"'{where}' must be an object with a 'type', such as 'text'", param=where)
    key = TEXT_KEYS.get(kind)
    if key is None:
        raise InvalidInput(f"'{where}' is of type '{kind[:64]}': {_TEXT_ONLY} send parts of type 'text'", param=where)
    text = part.get(key, 0)
    if text is not None and not isinstance(text, str):
        raise InvalidInput(f"'{where}.{key}' must be a string", param=f"{where}.{key}")
    return text or ""


def _check_calls(where: str, calls: Any) -> int:
    if not isinstance(calls, list):
        raise InvalidInput(f"'{where}' must be a list of calls", param=where)
    chars = 0
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidInput(
                f"'{where}[{place}].function' must be an object; calls of type 'function' are known here",
                param=f"{where}[{place}].function",
            )
        chars += _check_call(f"{where}[{place}].function", function)
    return chars


def _check_call(where: str, function: Any) -> int:
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"'{where}.name' must be a string", param=f"{where}.name")
    arguments = function.get("arguments")
    return len(name) + (len(arguments) if isinstance(arguments, str) else 0)
