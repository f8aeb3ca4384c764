"""The arguments of a call as an object, also where the answer ended in the middle of them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from pilotlight_text.answer_parts.json_reading import decoded_object

MAX_TRIES = 32
"""More would only be needed where the model has not written JSON at all."""

_CLOSING = {"{": "}", "[": "]"}


def input_of(text: str) -> dict[str, Any]:
    """The object, or as much of one as was finished: what is still being written is left out."""
    whole = decoded_object(text or "{}")
    if whole is not None:
        return whole
    for place in reversed(_member_ends(text)):
        known = decoded_object(text[:place] + _closing(text[:place]))
        if known is not None:
            return known
    return {}


def _member_ends(text: str) -> deque[int]:
    """The last places where a member may have ended."""
    ends: deque[int] = deque(maxlen=MAX_TRIES)
    for place, char in _outside_strings(text):
        if char in "{[}]":
            ends.append(place + 1)
        elif char == ",":
            ends.append(place)
    return ends


def _closing(text: str) -> str:
    opened: list[str] = []
    for _, char in _outside_strings(text):
        if char in _CLOSING:
            opened.append(_CLOSING[char])
        elif char in "}]" and opened:
            opened.pop()
    return "".join(reversed(opened))


def _outside_strings(text: str) -> Iterator[tuple[int, str]]:
    in_string = escaped = False
    for place, char in enumerate(text):
        if in_string:
            in_string, escaped = escaped or char != '"', not escaped and char == "\\"
        elif char == '"':
            in_string = True
        else:
            yield place, char
