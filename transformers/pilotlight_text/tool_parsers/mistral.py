"""Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, and since its 11th tokenizer
`[TOOL_CALLS]name[ARGS]{…}[TOOL_CALLS]…`, some with `[CALL_ID]…` between and some without `[ARGS]`. Pure.
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.json_reading import read_value
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader
from pilotlight_text.tool_parsers.json_calls import read_calls

_CALLS, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_MARKS = Marks(_CALLS)
_NO_NAME = re.compile(r"[^\w.\-]")
_NAME = re.compile(r"[\w.\-]{1,256}")


def _script(reader: TextReader, writer: PartsWriter) -> Step[None]:
    while (mark := (yield from reader.until(_MARKS, writer.content))) is not None:
        mark += yield from reader.space()
        if (yield from reader.peek()) in ("[", "{"):
            no_call = yield from read_calls(reader, writer, bare_name=True)
        else:
            no_call = yield from _read_named(reader, writer)
        if no_call is not None:
            writer.content(mark + no_call)


def _read_named(reader: TextReader, writer: PartsWriter) -> Step[str | None]:
    """Returns None when a call has begun, else the text read, which is none."""
    reader.keep()
    name = yield from reader.run(_NO_NAME)
    yield from reader.space()
    if (yield from reader.literal(_ID)):
        yield from reader.run(_NO_NAME)
    has_mark = yield from reader.literal(_ARGUMENTS)
    yield from reader.space()
    first = yield from reader.peek()
    kept = reader.kept()
    if not _NAME.fullmatch(name) or not (has_mark or first == "{"):
        return kept
    writer.begin(name)
    if first in ("{", ""):
        yield from read_value(reader, writer.arguments)
    return None


MISTRAL = CallFormat(lambda tools: _script, (_CALLS, _ARGUMENTS, _ID), (_CALLS,))
