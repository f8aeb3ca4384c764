"""Calls written in JSON, as most formats have them: `{"name": …, "arguments": {…}}`, alone or in a list.

Some models name it by `"function"`, or write OpenAI's `{"type": "function", "function": {"name": …, "arguments": …}}`.

Pure. A call has begun when its name and the key of its arguments have come; its arguments are handed on as they are
written. What turns out to be no call is returned, for the caller to tell as content.
"""

from __future__ import annotations

import json

from pilotlight_text.answer_parts.json_reading import decoded_string, read_short_string, read_value
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Step, TextReader

_NAME = ("name", "function")
_ARGUMENTS = ("arguments", "parameters")
_BESIDE = ("id", "type")
NO_ARGUMENTS = "{}"


def read_calls(reader: TextReader, writer: PartsWriter, *, bare_name: bool) -> Step[str | None]:
    """One call or a list of them. Returns None when at least one call has begun, else the text read, which is none.

    `bare_name`: an object that has a name and no arguments is a call, too.
    """
    if (yield from reader.peek()) != "[":
        return (yield from read_call(reader, writer, bare_name=bare_name))
    before = reader.take(reader.at + 1)
    any_call = False
    while True:
        before += yield from reader.space()
        if (yield from reader.peek()) == "]" and any_call:
            reader.take(reader.at + 1)
            return None
        no_call = yield from read_call(reader, writer, bare_name=bare_name)
        if no_call is not None:
            if not any_call:
                return before + no_call
            writer.content(before.lstrip() + no_call)
            return None
        any_call = True
        before = yield from reader.space()
        if (yield from reader.peek()) == ",":
            before += reader.take(reader.at + 1)


def read_call(reader: TextReader, writer: PartsWriter, *, bare_name: bool) -> Step[str | None]:
    """One object. Returns as `read_calls`."""
    reader.keep()
    begun = yield from _CallObject(reader, writer, bare_name=bare_name).read()
    kept = reader.kept()
    return None if begun else kept


class _CallObject:
    """`early`: arguments that came before the name."""

    def __init__(self, reader: TextReader, writer: PartsWriter, *, bare_name: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._bare_name = bare_name
        self._name: str | None = None
        self._early: list[str] | None = None
        self._begun = False
        self._is_nested = False

    def read(self) -> Step[bool]:
        """True when the call has begun, however it ended."""
        reader = self._reader
        if (yield from reader.peek()) != "{":
            return False
        reader.take(reader.at + 1)
        while True:
            yield from reader.space()
            if (yield from reader.peek()) == "}":
                reader.take(reader.at + 1)
                if self._name is not None and self._bare_name and not self._begun:
                    self._begin(self._name)
                    self._writer.arguments(NO_ARGUMENTS)
                return self._begun
            if not (yield from self._read_member()):
                return self._begun
            yield from reader.space()
            if (yield from reader.peek()) == ",":
                reader.take(reader.at + 1)

    def _read_member(self) -> Step[bool]:
        reader = self._reader
        key = yield from read_short_string(reader)
        if key is None:
            return False
        yield from reader.space()
        if (yield from reader.peek()) != ":":
            return False
        reader.take(reader.at + 1)
        if key in _NAME and self._name is None:
            return (yield from self._read_name(may_nest=key == "function"))
        if key in _ARGUMENTS and self._early is None and not self._begun:
            return (yield from self._read_arguments())
        if key not in _BESIDE and not self._begun:
            return False
        return (yield from read_value(reader, _ignore))

    def _read_name(self, *, may_nest: bool) -> Step[bool]:
        yield from self._reader.space()
        if may_nest and not self._is_nested and (yield from self._reader.peek()) == "{":
            self._is_nested = True
            return (yield from self.read())
        name = yield from read_short_string(self._reader)
        if not name:
            return False
        self._name = name
        if self._early is not None:
            self._begin(name)
            self._writer.arguments("".join(self._early))
        return True

    def _read_arguments(self) -> Step[bool]:
        self._early = []
        if self._name is not None:
            self._begin(self._name)
        told = self._writer.arguments if self._begun else self._early.append
        yield from self._reader.space()
        if (yield from self._reader.peek()) in ("{", "["):
            return (yield from read_value(self._reader, told))
        written: list[str] = []
        ended = yield from read_value(self._reader, written.append)
        told(_as_object("".join(written)))
        return ended

    def _begin(self, name: str) -> None:
        self._reader.kept()  # it is a call: nothing has to be told again
        self._begun = True
        self._writer.begin(name)


def _as_object(written: str) -> str:
    """Arguments that are no object: none at all, or an object written into a string."""
    if written in ("null", '""'):
        return NO_ARGUMENTS
    said = decoded_string(written) if written.startswith('"') else None
    if said is None:
        return written
    try:
        is_object = isinstance(json.loads(said, strict=False), dict)
    except (ValueError, RecursionError):
        is_object = False
    return said if is_object else written


def _ignore(text: str) -> None:
    pass
