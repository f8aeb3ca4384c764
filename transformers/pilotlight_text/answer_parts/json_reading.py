"""JSON inside a model's answer: one value at a time, handed on as it comes.

Pure. A value is delimited, not validated: strings and brackets are followed, so that its end is certain, and what a
model got wrong inside is its caller's to see. Nesting costs a counter.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from pilotlight_text.answer_parts.text_reader import Step, TextReader, Told

LONGEST_SHORT_STRING = 512
"""Of a key or a function's name, in characters as written; OpenAI allows a name 64."""

# '<' stands outside of strings in no JSON: where it does, a mark has come and the value has been left unfinished.
_BRACKETS = re.compile(r'[^"{}\[\]<]*')
_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SHORT_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SCALAR_END = re.compile(r"[\s,\]}<;]")


def read_value(reader: TextReader, told: Told) -> Step[bool]:
    """Tells one value, white space before it left out. False when it has not come to its end."""
    yield from reader.space()
    first = yield from reader.peek()
    if first in ("{", "["):
        return (yield from _read_brackets(reader, told))
    if first == '"':
        told(reader.take(reader.at + 1))
        return (yield from _read_string(reader, told))
    while True:
        found = _SCALAR_END.search(reader.text, reader.at)
        told(reader.take(len(reader.text) if found is None else found.start()))
        if found is not None or reader.ended:
            return found is not None
        yield


def read_short_string(reader: TextReader) -> Step[str | None]:
    """A string with what it says; None when what comes is none, or longer than a key or a name."""
    yield from reader.space()
    if (yield from reader.peek()) != '"':
        return None
    found = yield from reader.short(_SHORT_STRING, LONGEST_SHORT_STRING)
    return None if found is None else decoded_string(found.group())


def decoded_string(written: str) -> str | None:
    """Strict but for line breaks, which models leave unescaped."""
    try:
        said = json.loads(written, strict=False)
    except ValueError:
        return None
    return said if isinstance(said, str) else None


def _read_brackets(reader: TextReader, told: Told) -> Step[bool]:
    depth, in_string = 0, False
    while True:
        text, at, end = reader.text, reader.at, len(reader.text)
        while at < end:
            if in_string:
                at = _STRING.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty text
                if at == end or text[at] == "\\":  # the text ends here, or between an escape's two characters
                    break
                in_string = False
                at += 1
                continue
            at = _BRACKETS.match(text, at).end()  # type: ignore[union-attr]
            if at == end:
                break
            character = text[at]
            if character == "<":
                told(reader.take(at))
                return False
            at += 1
            if character == '"':
                in_string = True
            elif character in "{[":
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    told(reader.take(at))
                    return True
        told(reader.take(end if reader.ended else at))
        if reader.ended:
            return False
        yield


def _read_string(reader: TextReader, told: Told) -> Step[bool]:
    """Behind its opening quote."""
    while True:
        text, end = reader.text, len(reader.text)
        at = _STRING.match(text, reader.at).end()  # type: ignore[union-attr]
        if at < end and text[at] == '"':
            told(reader.take(at + 1))
            return True
        told(reader.take(end if reader.ended else at))
        if reader.ended:
            return False
        yield


def is_object(text: str) -> bool:
    """Whether it is all of an object: what was cut is none."""
    return decoded_object(text) is not None


def decoded_object(text: str) -> dict[str, Any] | None:
    try:
        decoded: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return decoded
