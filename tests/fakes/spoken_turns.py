"""One conversation, as nobody writes it yet: what the API's clients may write for it, and what a template wants.

`native` is written by hand from a Style, for transformers' own renderer; it must not use what it is there to check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from hypothesis import strategies as st
from template_styles import Style

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """`arguments` is text where it is no JSON: a model that was cut short."""

    name: str
    arguments: dict[str, Any] | str
    id: str

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Turn:
    role: str
    words: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    answers: str = ""


def said_by_client(turns: list[Turn], *, as_parts: bool = False, silence: Any = None) -> Messages:
    """`silence`: how a client writes that an assistant with calls has no words: None, "" or "absent"."""
    return [_said(turn, as_parts=as_parts, silence=silence) for turn in turns]


def _said(turn: Turn, *, as_parts: bool, silence: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": word} for word in turn.words]
    message: dict[str, Any] = {"role": turn.role}
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
            for call in turn.calls
        ]
    if turn.answers:
        message["tool_call_id"] = turn.answers
    if turn.words:
        message["content"] = parts if as_parts or len(parts) > 1 else turn.words[0]
    elif silence != "absent":
        message["content"] = silence
    return message


def native(turns: list[Turn], style: Style) -> Messages:
    """As transformers' renderer wants it for this template."""
    renamed = [
        Turn("system", turn.words) if turn.role == "developer" and not style.developer else turn for turn in turns
    ]
    system = [place for place, turn in enumerate(renamed) if turn.role == "system"]
    moves = renamed != turns or style.system == "first"
    if moves and system not in ([], [0]):
        text = "\n\n".join(words for place in system if (words := "\n".join(renamed[place].words)))
        renamed = [Turn("system", (text,)), *(turn for turn in renamed if turn.role != "system")]
    return [message for turn in renamed for message in _native(turn, style)]


def _native(turn: Turn, style: Style) -> Messages:
    message: dict[str, Any] = {"role": turn.role, "content": _content(turn, style)}
    if turn.answers:
        message["tool_call_id"] = _id(turn.answers, style)
    if not turn.calls:
        return [message]
    silent = {
        "role": "assistant",
        "content": None if style.calls else message["content"],
        "tool_calls": [
            {
                "id": _id(call.id, style),
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call, style)},
            }
            for call in turn.calls
        ],
    }
    if style.null_only:
        return [message, silent] if any(turn.words) else [silent]
    return [{**silent, "content": message["content"]} if turn.words else silent]


def _content(turn: Turn, style: Style) -> Any:
    form = style.form("user" if style.form(turn.role) == "unseen" else turn.role)
    if form == "parts" or (form == "either" and len(turn.words) > 1):
        return [{"type": "text", "text": word} for word in turn.words or ("",)]
    return "\n".join(turn.words)


def _arguments(call: Call, style: Style) -> Any:
    if style.calls == "text" or (style.calls == "either" and isinstance(call.arguments, str)):
        return call.text
    return call.arguments if isinstance(call.arguments, dict) else {}


def _id(call_id: str, style: Style) -> str:
    return sha256(call_id.encode()).hexdigest()[:9] if style.nine else call_id


_words = st.text("ab <\n\u00e9{}'\"|\N{GRINNING FACE}", max_size=8)
_one = _words.map(lambda word: (word,))
_some = st.lists(_words, min_size=1, max_size=3).map(tuple)
_values = st.one_of(_words, st.integers(-5, 5), st.booleans(), st.none(), st.lists(_words, max_size=2))
_cut_short = st.sampled_from(['{"city": "Os', "{", "nothing", '{"a": 1}}'])
_arguments_of = st.one_of(st.dictionaries(st.sampled_from(["city", "n", "\u00fc"]), _values, max_size=2), _cut_short)


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    """User and assistant in turn, with calls and their results between them, told by systems and developers."""
    turns = [Turn(draw(st.sampled_from(["system", "developer"])), draw(_one)) for _ in range(draw(st.integers(0, 2)))]
    turns.append(Turn("user", draw(_some)))
    for round_ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            calls = tuple(
                Call("f" + str(place), draw(_arguments_of), f"call_{round_}_{place}")
                for place in range(draw(st.integers(1, 2)))
            )
            turns.append(Turn("assistant", draw(st.one_of(st.just(()), _one)), calls))
            turns += [Turn("tool", draw(_one), answers=call.id) for call in calls]
        turns += [Turn("assistant", draw(_one)), Turn("user", draw(_some))]
    return turns
