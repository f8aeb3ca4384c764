"""Calls in Python's own words, `[f(a=1), g(b="x")]`: Llama 3.2, ToolACE, Llama 4 as vLLM's template has it.

Pure. Only where an answer begins is a list one of calls; it is when a name, a bracket and the first argument's name or
the closing bracket have come.
"""

from __future__ import annotations

import json
import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Step, TextReader
from pilotlight_text.tool_parsers.python_literals import write_value

_NO_NAME = re.compile(r"[^\w.]")
_NAME = re.compile(r"[^\W\d][\w.]{0,255}")


def _script(reader: TextReader, writer: PartsWriter) -> Step[None]:
    before = yield from reader.space()
    if (yield from reader.peek()) == "[":
        yield from read_list(reader, writer, before)
    else:
        writer.content(before)


def read_list(reader: TextReader, writer: PartsWriter, before: str) -> Step[None]:
    """From the opening bracket on. `before`: what was read in front of it, for the case that no calls come."""
    before += reader.take(reader.at + 1)
    while True:
        reader.keep()
        begun = yield from _read_call(reader, writer)
        kept = reader.kept()
        if not begun:
            writer.content(before + kept)
            return
        before = yield from reader.space()
        following = yield from reader.peek()
        if following == ",":
            before += reader.take(reader.at + 1)
            continue
        if following == "]":
            reader.take(reader.at + 1)
        return


def _read_call(reader: TextReader, writer: PartsWriter) -> Step[bool]:
    """True when a call has begun, however it ended."""
    yield from reader.space()
    name = yield from reader.run(_NO_NAME)
    if not _NAME.fullmatch(name) or not (yield from reader.literal("(")):
        return False
    yield from reader.space()
    if (yield from reader.literal(")")):
        _begin(reader, writer, name)
        writer.arguments("{}")
        return True
    key = yield from _read_key(reader)
    if key is None:
        return False
    _begin(reader, writer, name)
    between = "{"
    while key is not None:
        writer.arguments(f"{between}{json.dumps(key)}: ")
        yield from write_value(reader, writer.arguments)
        between = ", "
        if not (yield from reader.literal(",")):
            break
        yield from reader.space()
        if (yield from reader.peek()) == ")":
            break
        key = yield from _read_key(reader)
    if (yield from reader.literal(")")):
        writer.arguments("}")
    return True


def _read_key(reader: TextReader) -> Step[str | None]:
    key = yield from reader.run(_NO_NAME)
    yield from reader.space()
    if not _NAME.fullmatch(key) or not (yield from reader.literal("=")):
        return None
    return key


def _begin(reader: TextReader, writer: PartsWriter, name: str) -> None:
    reader.kept()
    writer.begin(name)


PYTHONIC = CallFormat(lambda tools: _script)
