"""Anthropic's messages and their content blocks to OpenAI's chat messages, which templates are given. Pure.

Turns of one speaker that follow each other are one turn, as Anthropic takes them. Tool results become messages of their
own, before what the user says beside them. What this server cannot read is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.anthropic_api.requests import Message

Json = dict[str, Any]

_BILLING = "x-anthropic-billing-header"
"""Claude Code begins its system prompt with such a block. It differs from request to request, and is no prompt: read by
a model it would make every prefix new to the cache."""

_NO_BLOCK = "blocks of type '{}' cannot be read here"
_TEXT_ONLY = "this model reads text only; blocks of type '{}' cannot be read"


def chat_messages(system: str | Sequence[Json] | None, messages: Sequence[Message]) -> list[Json]:
    """Raises InvalidInput with the `param` of the block that is wrong."""
    if not messages:
        raise InvalidInput("'messages' is empty: send at least one message", param="messages")
    out: list[Json] = []
    told = _system("system", system or [])
    if told:
        out.append({"role": "system", "content": told})
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.role == "user":
            _add_user(out, where, message.content)
        elif message.role == "assistant":
            _add_assistant(out, where, message.content)
        elif message.role == "system":
            told = _system(f"{where}.content", message.content)
            out += [{"role": "system", "content": told}] if told else []
        else:
            raise InvalidInput(f"'{where}.role' must be 'user', 'assistant' or 'system'", param=f"{where}.role")
    if not out:
        raise InvalidInput("'messages' say nothing: send at least one message with content", param="messages")
    return [_simple(message) for message in out]


def continues(messages: Sequence[Json]) -> bool:
    """Whether the answer goes on with the assistant's words that end the conversation."""
    last = messages[-1]
    return last["role"] == "assistant" and "tool_calls" not in last and "content" in last


def _simple(message: Json) -> Json:
    """A lone part as a string."""
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1:
        return {**message, "content": content[0]["text"]}
    return message


def _system(where: str, content: str | Sequence[Json]) -> list[Json]:
    parts = [_text(where, place, block) for place, block in enumerate(_blocks(content))]
    return [part for part in parts if not part["text"].startswith(_BILLING)]


def _add_user(out: list[Json], where: str, content: str | Sequence[Json]) -> None:
    said: list[Json] = []
    for place, block in enumerate(_blocks(content)):
        if block.get("type") == "tool_result":
            out.append(_tool_result(f"{where}.content[{place}]", block))
        else:
            said.append(_text(f"{where}.content", place, block))
    if out and out[-1]["role"] == "user":
        out[-1]["content"] += said
    elif said or not _blocks(content):
        out.append({"role": "user", "content": said})


def _add_assistant(out: list[Json], where: str, content: str | Sequence[Json]) -> None:
    turn: Json = out[-1] if out and out[-1]["role"] == "assistant" else {"role": "assistant"}
    if not out or turn is not out[-1]:
        out.append(turn)
    for place, block in enumerate(_blocks(content)):
        at, kind = f"{where}.content[{place}]", block.get("type")
        if kind == "thinking":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + _string(at, block, "thinking")
        elif kind == "redacted_thinking":
            continue  # encrypted by Anthropic for its own models
        elif kind == "tool_use":
            turn.setdefault("tool_calls", []).append(_call(at, block))
        else:
            turn.setdefault("content", []).append(_text(f"{where}.content", place, block))


def _call(where: str, block: Json) -> Json:
    given = block.get("input")
    if not isinstance(given, dict):
        raise InvalidInput(f"'{where}.input' must be an object", param=f"{where}.input")
    function = {"name": _string(where, block, "name"), "arguments": msgspec.json.encode(given).decode()}
    return {"id": _string(where, block, "id"), "type": "function", "function": function}


def _tool_result(where: str, block: Json) -> Json:
    content = block.get("content") or ""
    if not isinstance(content, str | list):
        raise InvalidInput(f"'{where}.content' must be a string or a list of blocks", param=f"{where}.content")
    text = "\n".join(_text(f"{where}.content", place, part)["text"] for place, part in enumerate(_blocks(content)))
    # A tool's message has no other place for it.
    shown = f"Error: {text}" if block.get("is_error") else text
    return {"role": "tool", "tool_call_id": _string(where, block, "tool_use_id"), "content": shown}


def _text(where: str, place: int, block: Any) -> Json:
    at = f"{where}[{place}]"
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        why = _TEXT_ONLY if kind in ("image", "document") else _NO_BLOCK
        raise InvalidInput(f"'{at}': {why.format(str(kind)[:64])}", param=at)
    return {"type": "text", "text": _string(at, block, "text")}


def _blocks(content: str | Sequence[Json]) -> Sequence[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _string(where: str, block: Json, name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"'{where}.{name}' must be a string", param=f"{where}.{name}")
    return value
