"""Input items to the messages of a conversation: what of one turn stands in several items becomes one message.

Pure. What this server cannot read (images, files, hosted tools' items, references) is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotlight_protocol.errors import InvalidInput

Json = dict[str, Any]

_ROLES = ("user", "assistant", "system", "developer")
_INSTRUCTING = ("system", "developer")
_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_ITEM_KEYS = ("type", "id", "status")
_KEYS = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments", "namespace", "caller"),
    "function_call_output": ("call_id", "output", "caller"),
    "reasoning": ("summary", "content", "encrypted_content"),
}
UNFINISHED = ("in_progress", "incomplete")


def as_items(given: str | Sequence[Json]) -> list[Json]:
    """A lone string is what the user says."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return list(given)


def messages_of(items: Sequence[Json], instructions: str | None, history: Sequence[Json] = ()) -> list[Json]:
    """OpenAI's chat messages; `history` are the items of what came before. Raises InvalidInput with the `param` of the
    item that is wrong.

    Instructions and the instructing messages that follow them at once become one: many templates know a system message
    at the beginning only.
    """
    if not items:
        raise InvalidInput("'input' is empty: send a text or at least one item", param="input")
    messages: list[Json] = []
    for item in history:
        _add(messages, "previous_response_id", item)
    for place, item in enumerate(items):
        _add(messages, f"input[{place}]", item)
    leading = next((place for place, message in enumerate(messages) if not _instructs(message)), len(messages))
    told = [_joined(message["content"]) for message in messages[:leading]]
    if instructions:
        told.insert(0, instructions)
    system = [{"role": "system", "content": "\n\n".join(told)}] if told else []
    return system + messages[leading:]


def unread_keys(items: Sequence[Json]) -> list[str]:
    """What of the items is not read, as `input.phase`: an assistant's message is one whatever it was said for."""
    known = {kind: {*_ITEM_KEYS, *keys} for kind, keys in _KEYS.items()}
    found = {
        key: None
        for item in items
        for key, value in item.items()
        if value and key not in known.get(str(item.get("type") or "message"), item)
    }
    return [f"input.{key}" for key in found]


def continues(items: Sequence[Json]) -> bool:
    """Whether the answer goes on with the last item: an assistant's message that is said to be unfinished (vLLM)."""
    last = items[-1] if items else {}
    return last.get("role") == "assistant" and last.get("status") in UNFINISHED


def _add(messages: list[Json], where: str, item: Json) -> None:
    kind = item.get("type")
    if kind == "message" or (kind is None and "role" in item):
        _add_message(messages, where, item)
    elif kind == "function_call":
        _add_call(messages, where, item)
    elif kind == "function_call_output":
        output = _content(f"{where}.output", item.get("output"))
        call_id = _text(f"{where}.call_id", item.get("call_id"))
        messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    elif kind == "reasoning":
        _add_reasoning(messages, where, item)
    elif kind == "item_reference" or (kind is None and "id" in item):
        raise _refused(f"{where}.type", "references to items are not followed; send the item itself")
    else:
        shown = str(kind)[:64]
        raise _refused(
            f"{where}.type",
            f"items of type '{shown}' are not read here; send message, function_call, function_call_output and "
            "reasoning items",
        )


def _add_message(messages: list[Json], where: str, item: Json) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidInput(f"'{where}.role' must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    content = _content(f"{where}.content", item.get("content"))
    if role != "assistant":
        messages.append({"role": role, "content": content})
        return
    turn = _turn(messages, lambda message: "content" not in message or "tool_calls" in message)
    turn["content"] = _joined(turn["content"]) + _joined(content) if "content" in turn else content


def _add_call(messages: list[Json], where: str, item: Json) -> None:
    if item.get("namespace"):
        raise _refused(f"{where}.namespace", "tools have no namespaces here")
    function = {
        "name": _text(f"{where}.name", item.get("name")),
        "arguments": _text(f"{where}.arguments", item.get("arguments")),
    }
    call_id = _text(f"{where}.call_id", item.get("call_id"))
    turn = _turn(messages, lambda message: True)
    turn.setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})


def _add_reasoning(messages: list[Json], where: str, item: Json) -> None:
    said = ""
    for name in ("content", "summary"):
        parts = item.get(name) or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InvalidInput(f"'{where}.{name}' must be a list of parts", param=f"{where}.{name}")
        texts = [_text(f"{where}.{name}[{place}].text", part.get("text")) for place, part in enumerate(parts)]
        said = said or "\n".join(texts)
    if not said and item.get("encrypted_content"):
        raise _refused(f"{where}.encrypted_content", "only reasoning in the item's 'content' can be read here")
    if said:
        turn = _turn(messages, lambda message: "content" not in message or "tool_calls" in message)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + said


def _turn(messages: list[Json], belongs: Any) -> Json:
    """The assistant's message that an item belongs to: the last one, or a new one."""
    if not (messages and messages[-1]["role"] == "assistant" and belongs(messages[-1])):
        messages.append({"role": "assistant"})
    return messages[-1]


def _content(where: str, content: Any) -> str | list[Json]:
    """Chat's: a string, or parts of type `text`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidInput(f"'{where}' must be a string or a list of parts", param=where)
    return [{"type": "text", "text": _part(f"{where}[{place}]", part)} for place, part in enumerate(content)]


def _part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    name = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if name is None:
        raise InvalidInput(f"'{where}': this model reads text only; send parts of type 'input_text'", param=where)
    return _text(f"{where}.{name}", part.get(name))


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"'{where}' must be a string", param=where)
    return value


def _instructs(message: Json) -> bool:
    return message["role"] in _INSTRUCTING


def _joined(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _refused(param: str, why: str) -> InvalidInput:
    return InvalidInput(f"'{param}': {why}", param=param)
