"""Which fields of a conversation its template does not read, so that the model never sees them. Pure.

They are answered all the same, as vLLM answers them, and whoever sent them is told: `ignored_fields` says where.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from pilotlight_text.templates.conversation_check import Message
from pilotlight_text.templates.conversation_shape import joined_text
from pilotlight_text.templates.template_traits import TemplateTraits

_NAMED = ("user", "assistant", "system", "developer")
"""Roles whose `name` is somebody's; a tool's is that of the function which the call names."""
_KNOWN = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio")
    + ("reasoning", "reasoning_content", "thinking", "annotations")
)
"""Keys of a message that are looked at by themselves; what a server annotated is of what the message says already."""

_SAME_AS = {"developer": "system", "function": "tool"}


def unseen_variables(
    traits: TemplateTraits, variables: Iterable[str], *, tools: bool, documents: bool, reasoning_effort: bool
) -> Iterator[str]:
    """The names of what nothing in the template reads."""
    if tools and not traits.shows_tools:
        yield "tools"
    if documents and "documents" not in traits.read_names:
        yield "documents"
    read = {*traits.read_names, *traits.switches}
    if reasoning_effort and not read & {"reasoning_effort", "enable_thinking", "thinking"}:
        yield "reasoning_effort"
    yield from (f"chat_template_kwargs.{name}" for name in variables if name not in read)


def unseen_words(messages: Sequence[Message], traits: TemplateTraits, text: str) -> Iterator[str]:
    """What of the messages is not in the rendered `text`: a role's words, where the probes never saw such shown."""
    if not traits.shows_names and any(message.get("name") and message["role"] in _NAMED for message in messages):
        yield "messages.name"
    if not traits.shows_calls and any(
        message.get("tool_calls") or message.get("function_call") for message in messages
    ):
        yield "messages.tool_calls"
    if not traits.shows_reasoning:
        for key in ("reasoning", "reasoning_content", "thinking"):
            if any(message.get(key) for message in messages if message["role"] == "assistant"):
                yield f"messages.{key}"
    others = {key: None for message in messages for key, value in message.items() if value and key not in _KNOWN}
    yield from (f"messages.{key}" for key in others if key not in traits.read_keys)
    if not traits.shows("user"):
        return  # the probes can say nothing of this template
    for place, message in enumerate(messages):
        role: str = message["role"]
        if traits.shows(_SAME_AS.get(role, role)):
            continue
        if not all(words in text or _in_json(words) in text for words in _words(message)):
            yield f"messages[{place}].content"


def _words(message: Message) -> list[str]:
    content = message.get("content") or ()
    parts = [content] if isinstance(content, str) else content
    return [(part if isinstance(part, str) else joined_text([part])).strip() for part in parts]


def _in_json(words: str) -> str:
    return json.dumps(words, ensure_ascii=False)[1:-1]
