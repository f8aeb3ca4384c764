"""Finds out what a template wants by rendering small conversations with it, and looking where their words come out.

Runs where templates run: it must import nothing that a worker has not (`worker_main`), and knows a template as a
function only. What is asked here is what public templates differ in; the answers are the fields of `TemplateTraits`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

Message = dict[str, Any]
Render = Callable[[dict[str, Any]], str | None]
"""The text for a context, None where the template fails on it or refuses it."""

_FIRST, _SECOND, _THIRD = "probe-alpha", "probe-beta", "probe-gamma"
_FUNCTION, _ARGUMENTS = "probe_function", {"probe_key": "probe value"}
_ARGUMENTS_TEXT = json.dumps(_ARGUMENTS)
_WRITTEN_OUT = re.compile(r"""\\?["']text\\?["']\s*:\s*\\?["']probe-""")
"""A list of parts that came out as Python's or JSON's text of it: nobody looped over it."""

_NINE, _LONG = "call00001", "call_0123456789abcdef01234567"
_MADE_UP_ROLE = "rolethatnobodyknows"
_TOLD_CHARS = 2000
_TOOL = {
    "type": "function",
    "function": {
        "name": _FUNCTION,
        "description": "Probes.",
        "parameters": {
            "type": "object",
            "properties": {"probe_key": {"type": "string", "description": "A probe."}},
            "required": ["probe_key"],
        },
    },
}


def probed(render: Render) -> dict[str, Any]:
    """The fields of TemplateTraits."""
    return _Probes(render).traits()


class _Probes:
    def __init__(self, render: Render) -> None:
        self._render = render
        self._forms: dict[str, str] = {}

    def traits(self) -> dict[str, Any]:
        self._forms["user"] = self._form(lambda content: [_turn("user", content)])
        self._forms["assistant"] = self._form(
            lambda content: [self._words("user"), _turn("assistant", content), self._words("user")]
        )
        self._forms["system"] = self._form(lambda content: [_turn("system", content), self._words("user")])
        calls = self._calls()
        self._forms["tool"] = self._form(
            lambda content: [self._words("user"), self._call_as(calls), _turn("tool", content, tool_call_id=_NINE)]
        )
        return {
            "content": self._forms,
            **calls,
            "system_role": self._forms["system"] != "unseen",
            "system_places": self._system_places(),
            "developer_role": self._knows_role("developer"),
            "tools": self._tools(),
            "shows_documents": self._shows_documents(),
            "shows_names": self._shows_names(),
            "shows_reasoning": self._shows_reasoning(calls),
            "switches": self._switches(),
            "generation_prompt": self._generation_prompt(),
        }

    def _text(self, messages: list[Message], **variables: Any) -> str | None:
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
        return self._render({**given, **variables})

    def _words(self, role: str, text: str = "Hello.", **keys: Any) -> Message:
        as_parts = self._forms.get(role, "unseen") in ("parts", "one part")
        return _turn(role, [{"type": "text", "text": text}] if as_parts else text, **keys)

    def _form(self, conversation: Callable[[Any], list[Message]]) -> str:
        """Which ContentForm shows the words that `conversation` is given."""
        first, second = ({"type": "text", "text": word} for word in (_FIRST, _SECOND))
        as_text = _shows(self._text(conversation(_FIRST)), (_FIRST,))
        if _shows(self._text(conversation([first, second])), (_FIRST, _SECOND)):
            return "either" if as_text else "parts"
        if as_text:
            return "text"
        return "one part" if _shows(self._text(conversation([first])), (_FIRST,)) else "unseen"

    def _calls(self) -> dict[str, Any]:
        """How a turn with calls is written: its arguments, its content, its ids."""
        shown = {}
        for content in ("null", "empty", "absent"):
            if ways := self._argument_ways(content):
                shown[content] = ways
        if not shown:
            return {}
        first = next(iter(shown))
        ways = shown[first]
        best: dict[str, Any] = {
            "arguments": "either" if len(ways) == 2 else ways[0],
            "call_content": [content for content, those in shown.items() if set(ways) <= set(those)],
        }
        if self._shown_call(_call(best, call_id=_LONG)) is None:
            best["call_ids"] = "nine"
        best["splits_calls"] = self._splits_calls(best)
        best["shows_thinking_key"] = _FIRST in (self._shown_call({**_call(best), "thinking": _FIRST}) or "")
        text = self._shown_call(_call(best)) or ""
        alone = self._text([self._words("user")]) or ""
        best["call_text"] = text.removeprefix(alone)[:_TOLD_CHARS]
        return best

    def _argument_ways(self, content: str) -> tuple[str, ...]:
        ways = []
        for way in ("object", "text"):
            text = self._shown_call(_call({"arguments": way, "call_content": [content]}))
            if text is None or "probe value" not in text:
                continue
            if "{'probe_key'" not in text if way == "object" else _ARGUMENTS_TEXT in text:
                ways.append(way)
        return tuple(ways)

    def _shown_call(self, call: Message) -> str | None:
        """The text where the call is in it, and nothing that is not there is written out as `None`."""
        text = self._text([self._words("user"), call])
        if text is None or "probe_key" not in text:
            return None
        if "None" in text.removeprefix(self._text([self._words("user")]) or ""):
            return None
        return text

    def _splits_calls(self, calls: dict[str, Any]) -> bool:
        words = self._words("assistant", _FIRST)
        together = self._text([self._words("user"), {**_call(calls), "content": words["content"]}])
        if together is None or "probe_key" in together:
            return False
        return _shows(self._text([self._words("user"), words, _call(calls)]), (_FIRST, "probe_key"))

    def _call_as(self, calls: dict[str, Any]) -> Message:
        return _call(calls) if calls else self._words("assistant")

    def _system_places(self) -> str:
        if self._forms["system"] == "unseen":
            return "anywhere"  # whatever the template makes of them is its own say
        first, second, third = (self._words("system", word) for word in (_FIRST, _SECOND, _THIRD))
        user, assistant = self._words("user"), self._words("assistant")
        if not _shows(self._text([first, second, user]), (_FIRST, _SECOND)):
            return "first"
        later = self._text([first, user, assistant, third, user])
        return "anywhere" if _shows(later, (_FIRST, _THIRD)) else "leading"

    def _knows_role(self, role: str) -> bool:
        """Whether it is treated in a way of its own: what any made-up role gets is not knowing it."""
        known, made_up = (
            self._text([{**self._words("system", _FIRST), "role": name}, self._words("user")])
            for name in (role, _MADE_UP_ROLE)
        )
        if not _shows(known, (_FIRST,)):
            return False
        return (known or "").lower() != (made_up or "").lower().replace(_MADE_UP_ROLE, role)

    def _tools(self) -> str:
        user, system = self._words("user"), self._words("system")
        for messages in ([user], [system, user]):
            for shape, tool in (("wrapped", _TOOL), ("bare", _TOOL["function"])):
                if _FUNCTION in (self._text(messages, tools=[tool]) or ""):
                    return shape
        told = {**system, "tools": json.dumps([_TOOL["function"]])}
        return "system text" if _FUNCTION in (self._text([told, user]) or "") else ""

    def _shows_documents(self) -> bool:
        document = {"doc_id": "1", "title": _FIRST, "text": _SECOND, "contents": _SECOND}
        return _SECOND in (self._text([self._words("user")], documents=[document], add_generation_prompt=True) or "")

    def _shows_names(self) -> bool:
        said, user = self._words("assistant", name=_FIRST), self._words("user")
        conversations = ([self._words("user", name=_FIRST)], [user, said, user])
        return any(_FIRST in (self._text(messages) or "") for messages in conversations)

    def _shows_reasoning(self, calls: dict[str, Any]) -> bool:
        thought = {"reasoning": _FIRST, "reasoning_content": _FIRST}
        user, said = self._words("user"), self._words("assistant", **thought)
        conversations = [[user, said], [user, said, user]]
        if calls:
            call, result = {**_call(calls), **thought}, self._words("tool", tool_call_id=_NINE)
            conversations += [[user, call], [user, call, result]]
        shown = any(_FIRST in (self._text(messages) or "") for messages in conversations)
        return shown or bool(calls.get("shows_thinking_key"))

    def _switches(self) -> list[str]:
        user, assistant = self._words("user"), self._words("assistant")
        values: tuple[tuple[str, Any, Any], ...] = (
            ("enable_thinking", True, False),
            ("thinking", True, False),
            ("reasoning_effort", "low", "high"),
        )
        return [
            name
            for name, one, other in values
            if any(
                self._text(messages, add_generation_prompt=True, **{name: one})
                != self._text(messages, add_generation_prompt=True, **{name: other})
                for messages in ([user], [user, assistant, user])
            )
        ]

    def _generation_prompt(self) -> str:
        without, text = (self._text([self._words("user")], add_generation_prompt=adds) or "" for adds in (False, True))
        same = next(
            (at for at, (one, other) in enumerate(zip(without, text, strict=False)) if one != other), len(without)
        )
        return text[same:][:_TOLD_CHARS]


def _turn(role: str, content: Any, **keys: Any) -> Message:
    return {"role": role, "content": content, **keys}


def _call(calls: dict[str, Any], call_id: str = _NINE) -> Message:
    arguments = _ARGUMENTS_TEXT if calls["arguments"] == "text" else _ARGUMENTS
    function = {"name": _FUNCTION, "arguments": arguments}
    turn: Message = {
        "role": "assistant",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }
    content = calls["call_content"][0]
    return turn if content == "absent" else {**turn, "content": None if content == "null" else ""}


def _shows(text: str | None, words: Iterable[str]) -> bool:
    return text is not None and all(word in text for word in words) and _WRITTEN_OUT.search(text) is None
