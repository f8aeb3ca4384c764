"""Python's literals written as JSON, as they come: strings, numbers, lists, tuples, sets, dicts, True, False, None.

Pure. A quote that nothing follows which may follow a value is part of its string (`'it's late'`), as models write it.
What is no literal becomes a string of what was written.
"""

from __future__ import annotations

import json
import re

from pilotlight_text.answer_parts.text_reader import Step, TextReader, Told

DEEPEST = 32
"""Of nested values; what is deeper is handed on as a string."""

_CLOSERS = {"[": "]", "(": ")", "{": "}"}
_NAMES = {"True": "true", "true": "true", "False": "false", "false": "false", "None": "null", "null": "null"}
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LONGEST_NUMBER = 400
_SIMPLE_ESCAPES = {
    "n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "a": "\\u0007", "v": "\\u000b",
    "\\": "\\\\", "'": "'", '"': '\\"', "\n": "",
}  # fmt: skip
_CODES = {"x": re.compile(r"[0-9A-Fa-f]{2}"), "u": re.compile(r"[0-9A-Fa-f]{4}"), "U": re.compile(r"[0-9A-Fa-f]{8}")}
_OCTAL = re.compile(r"[0-7]{1,3}")
_AFTER_VALUE = frozenset(",)]}:;")
_BARE_END = re.compile(r"""[,()\[\]{}:"']""")
_STRING_ENDS = {quote: re.compile(f"[{quote}\\\\]") for quote in "\"'"}


def write_value(reader: TextReader, told: Told, depth: int = 0) -> Step[None]:
    """One value and the white space around it, read; its JSON told. At the end of the text it ends where it is."""
    yield from reader.space()
    first = yield from reader.peek()
    if first in ('"', "'"):
        yield from _write_string(reader, told)
    elif first in _CLOSERS and depth < DEEPEST:
        reader.take(reader.at + 1)
        if first == "{":
            yield from _write_braces(reader, told, depth)
        else:
            told("[")
            yield from _write_items(reader, told, depth, _CLOSERS[first])
    else:
        told(_bare((yield from _read_bare(reader))))
    yield from reader.space()


def _write_items(reader: TextReader, told: Told, depth: int, closer: str, *, between: str = "") -> Step[None]:
    """Behind the opening bracket and, of a set, behind its first item."""
    while True:
        yield from reader.space()
        following = yield from reader.peek()
        if following == ",":
            reader.take(reader.at + 1)
        elif following == closer or following in _AFTER_VALUE:
            reader.take(reader.at + 1)
            told("]")
            return
        elif not following:
            return
        else:
            told(between)
            yield from write_value(reader, told, depth + 1)
            between = ", "


def _write_braces(reader: TextReader, told: Told, depth: int) -> Step[None]:
    between = "{"
    while True:
        yield from reader.space()
        following = yield from reader.peek()
        if following == "}":
            reader.take(reader.at + 1)
            told("{}" if between == "{" else "}")
            return
        if following == ",":
            reader.take(reader.at + 1)
            continue
        if not following or following in _AFTER_VALUE:
            return
        key: list[str] = []
        yield from write_value(reader, key.append, depth + 1)
        if (yield from reader.peek()) == ":":
            reader.take(reader.at + 1)
            written = "".join(key)
            told(f"{between}{written if written.startswith(chr(34)) else json.dumps(written)}: ")
            yield from write_value(reader, told, depth + 1)
            between = ", "
        elif between == "{":
            told("[" + "".join(key))
            yield from _write_items(reader, told, depth, "}", between=", ")
            return
        else:
            told(between + "".join(key) + ": null")


def _write_string(reader: TextReader, told: Told) -> Step[None]:
    told('"')
    quote = reader.take(reader.at + 1)
    while True:
        if (yield from reader.literal(quote * 2)):
            ended = yield from _write_until(reader, told, quote, triple=True)
        else:
            ended = yield from _write_until(reader, told, quote, triple=False)
        if not ended:
            return
        yield from reader.space()
        quote = yield from reader.peek()
        if quote not in ('"', "'"):
            break
        reader.take(reader.at + 1)  # another string behind it goes on with it
    told('"')


def _write_until(reader: TextReader, told: Told, quote: str, *, triple: bool) -> Step[bool]:
    """The inside of a string, its closing quote read. False when the text has ended before."""
    ends = _STRING_ENDS[quote]
    while True:
        found = ends.search(reader.text, reader.at)
        told(_escaped(reader.take(len(reader.text) if found is None else found.start())))
        character = yield from reader.peek()
        if not character:
            return False
        if character == "\\":
            if not (yield from _write_escape(reader, told)):
                return False
        elif character == quote:
            if triple:
                if (yield from reader.literal(quote * 3)):
                    return True
                told(_escaped(reader.take(reader.at + 1)))
                continue
            reader.take(reader.at + 1)
            space = yield from reader.space()
            following = yield from reader.peek()
            if not following or following in _AFTER_VALUE or following in ('"', "'"):
                return True
            told(_escaped(quote + space))


def _write_escape(reader: TextReader, told: Told) -> Step[bool]:
    """False when the text has ended in the middle of it, which is left out then."""
    reader.take(reader.at + 1)
    kind = yield from reader.peek()
    if not kind:
        return False
    if kind in _SIMPLE_ESCAPES:
        reader.take(reader.at + 1)
        told(_SIMPLE_ESCAPES[kind])
        return True
    if kind in _CODES:
        reader.take(reader.at + 1)
        code = yield from _read_code(reader, _CODES[kind], {"x": 2, "u": 4, "U": 8}[kind])
        told(_character(int(code, 16)) if code else _escaped("\\" + kind))
        return bool(code) or not reader.ended
    if kind in "01234567":
        code = ""
        while len(code) < 3 and (yield from reader.peek()) in tuple("01234567"):
            code += reader.take(reader.at + 1)
        told(_character(int(code, 8)))
        return True
    told("\\\\")  # Python leaves the backslash of what is no escape
    return True


def _read_code(reader: TextReader, pattern: re.Pattern[str], length: int) -> Step[str]:
    while True:
        found = pattern.match(reader.text, reader.at)
        if found is not None:
            return reader.take(found.end())
        if reader.ended or len(reader.text) - reader.at >= length:
            return ""
        yield


def _character(code: int) -> str:
    """A surrogate stays an escape: it is half a character."""
    if 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}"
    return _escaped(chr(code)) if code <= 0x10FFFF else "\N{REPLACEMENT CHARACTER}"


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _read_bare(reader: TextReader) -> Step[str]:
    """Text up to what ends a value, brackets and strings in it left whole."""
    read: list[str] = []
    closers: list[str] = []
    while True:
        found = _BARE_END.search(reader.text, reader.at)
        read.append(reader.take(len(reader.text) if found is None else found.start()))
        character = yield from reader.peek()
        if not character:
            return "".join(read)
        if found is None:
            continue
        if character in _CLOSERS:
            closers.append(_CLOSERS[character])
        elif closers and character == closers[-1]:
            closers.pop()
        elif not closers and character in _AFTER_VALUE:
            return "".join(read)
        read.append(reader.take(reader.at + 1))
        if character in ('"', "'"):
            yield from _read_quoted(reader, character, read)


def _read_quoted(reader: TextReader, quote: str, read: list[str]) -> Step[None]:
    while True:
        found = _STRING_ENDS[quote].search(reader.text, reader.at)
        read.append(reader.take(len(reader.text) if found is None else found.end()))
        if found is not None:
            if found.group() == quote:
                return
            if not (yield from reader.peek()):
                return
            read.append(reader.take(reader.at + 1))
        elif not (yield from reader.peek()):
            return


def _bare(written: str) -> str:
    text = written.strip()
    if text in _NAMES:
        return _NAMES[text]
    if _JSON_NUMBER.fullmatch(text):
        return text
    if len(text) <= _LONGEST_NUMBER:
        for number in (_whole, float):
            try:
                return json.dumps(number(text), allow_nan=False)
            except (ValueError, OverflowError):
                continue
    return json.dumps(text, ensure_ascii=False)


def _whole(text: str) -> int:
    """Python's notations, and leading zeros, which it refuses."""
    try:
        return int(text, 0)
    except ValueError:
        return int(text)
