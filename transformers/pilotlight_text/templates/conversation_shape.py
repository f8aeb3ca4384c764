"""A conversation of the API as one template wants it: what `TemplateTraits` says, done. Pure.

It takes what `check_conversation` has passed, changes nothing it was given, and drops no words: what a template cannot
show where it stands is moved, and what the API calls differently is renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from pilotlight_text.templates.conversation_check import TEXT_KEYS, Message, part_text
from pilotlight_text.templates.template_traits import TemplateTraits

_CALL_ID_CHARS = 9


def shaped(messages: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """The messages to render."""
    turns: list[Message] = []
    if any(_is_older(message) for message in messages):
        from pilotlight_text.templates.older_messages import in_todays_words

        messages = in_todays_words(messages)
    for message in messages:
        turns += _turns(message, traits)
    if any(message["role"] == "developer" for message in messages) and not traits.developer_role:
        turns = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]
        return _one_system_message(turns, traits)
    return turns if _shows_where_they_stand(turns, traits) else _one_system_message(turns, traits)


def _is_older(message: Message) -> bool:
    """Whether it has words where templates look for none."""
    return message["role"] == "function" or bool(message.get("function_call") or message.get("refusal"))


def _turns(message: Message, traits: TemplateTraits) -> list[Message]:
    role, content = message["role"], message.get("content")
    form = traits.form_of("system" if role == "developer" else role)
    if len(message) == 2 and isinstance(content, str) and form in ("text", "either"):
        return [message]
    turn = {key: value for key, value in message.items() if value is not None and value not in ("", [], {})}
    turn["content"] = _content(content, form)
    if role == "assistant":
        _write_reasoning(turn, traits)
        if "tool_calls" in turn:
            return _with_calls(turn, message, traits)
    elif "tool_call_id" in turn and traits.call_ids == "nine":
        turn["tool_call_id"] = _nine(turn["tool_call_id"])
    return [turn]


def _content(content: Any, form: str) -> Any:
    if form == "either" and isinstance(content, list):
        form = "parts"
    elif form == "either":
        form = "text"
    if form == "parts":
        parts = [content or ""] if content is None or isinstance(content, str) else content
        return [_text_part(part) for part in parts if isinstance(part, str) or _has_text(part)]
    text = content if isinstance(content, str) else joined_text(content or ())
    return [{"type": "text", "text": text}] if form == "one part" else text


def joined_text(parts: Sequence[Any]) -> str:
    """Parts for a template that knows one string: one to a line, as vLLM's chat joins them."""
    return "\n".join(part_text("", part) for part in parts if isinstance(part, str) or _has_text(part))


def _has_text(part: Mapping[str, Any]) -> bool:
    return part[TEXT_KEYS[part["type"]]] is not None


def _text_part(part: Any) -> dict[str, Any]:
    """Whatever kind of text it is; what else the client said of it stays, for templates that read it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    key = TEXT_KEYS[part["type"]]
    rest = {name: value for name, value in part.items() if name not in ("type", key) and value is not None}
    return {"type": "text", "text": part[key], **rest}


def _write_reasoning(turn: dict[str, Any], traits: TemplateTraits) -> None:
    """Under each of the names that templates know it by: `reasoning` (vLLM), `reasoning_content`, `thinking`."""
    reasoning = turn.get("reasoning") or turn.get("reasoning_content")
    if isinstance(reasoning, str):
        turn["reasoning"] = turn["reasoning_content"] = reasoning
        if traits.shows_thinking_key:
            turn.setdefault("thinking", reasoning)


def _with_calls(turn: dict[str, Any], message: Message, traits: TemplateTraits) -> list[Message]:
    turn["tool_calls"] = [_call(call, traits) for call in turn["tool_calls"]]
    content = turn.pop("content")
    if content and content != [{"type": "text", "text": ""}]:
        if traits.splits_calls:
            words = {key: value for key, value in turn.items() if key != "tool_calls"}
            return [{**words, "content": content}, _silent(turn, traits.call_content[0])]
        return [{**turn, "content": content}]
    if message.get("content") is not None and "empty" in traits.call_content:
        return [_silent(turn, "empty", content)]
    return [_silent(turn, traits.call_content[0], content)]


def _silent(turn: Mapping[str, Any], how: str, empty: Any = "") -> Message:
    if how == "absent":
        return turn
    return {**turn, "content": None if how == "null" else empty}


def _call(call: Mapping[str, Any], traits: TemplateTraits) -> dict[str, Any]:
    given = {key: value for key, value in call.items() if value is not None}
    arguments = _arguments(given["function"].get("arguments"), traits)
    made = {**given, "type": given.get("type", "function"), "function": {**given["function"], "arguments": arguments}}
    if traits.call_ids == "nine" and "id" in made:
        made["id"] = _nine(made["id"])
    return made


def _arguments(arguments: Any, traits: TemplateTraits) -> Any:
    """Text that is no JSON object came from a model that was cut short: the conversation goes on all the same.

    A template that takes text gets it as it is; one that takes objects only gets an empty one, as vLLM does it.
    """
    if traits.arguments == "text":
        if isinstance(arguments, str):
            return arguments or "{}"
        return json.dumps(arguments or {}, ensure_ascii=False)
    if isinstance(arguments, str) and arguments:
        decoded = _decoded(arguments)
        return arguments if decoded is None and traits.arguments == "either" else decoded or {}
    return arguments if isinstance(arguments, Mapping) else {}


def _decoded(arguments: str) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(arguments)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _nine(call_id: Any) -> str:
    """The same nine letters and digits for the same id, and an id that is such already."""
    text = str(call_id)
    if len(text) == _CALL_ID_CHARS and text.isascii() and text.isalnum():
        return text
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_CALL_ID_CHARS]


def _shows_where_they_stand(turns: Sequence[Message], traits: TemplateTraits) -> bool:
    if traits.system_places == "anywhere":
        return True
    places = [place for place, turn in enumerate(turns) if turn["role"] == "system"]
    return places == list(range(len(places))) and (traits.system_places == "leading" or len(places) <= 1)


def _one_system_message(turns: Sequence[Message], traits: TemplateTraits) -> list[Message]:
    """All of them as the first, as vLLM does it when a developer's message became one."""
    system = [turn for turn in turns if turn["role"] == "system"]
    if system == list(turns[:1]):
        return list(turns)
    words = [content if isinstance(content := turn["content"], str) else joined_text(content) for turn in system]
    text = "\n\n".join(word for word in words if word)
    rest = {key: value for turn in system for key, value in turn.items()}
    first = {**rest, "content": _content(text, traits.form_of("system"))}
    return [first, *(turn for turn in turns if turn["role"] != "system")]
