"""DeepSeek V3 and R1, and V3.1, which leaves out what says nothing:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\\n```json\\n{…}\\n```<｜tool▁call▁end｜>…<｜tool▁calls▁end｜>
    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>…<｜tool▁calls▁end｜>

Pure. What follows the separator tells the two apart.
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.json_reading import read_value
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader

_CALLS_BEGIN, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_BEGIN, _END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_ALL = (_CALLS_BEGIN, _CALLS_END, _BEGIN, _END)
_MARKS = Marks(*_ALL)
_WORD_END = re.compile(r"[\n<{`]")
_NO_FENCE = re.compile(r"[^\s`]")
_FENCE = "```json"
_LONGEST_NAME = 256


def _script(reader: TextReader, writer: PartsWriter) -> Step[None]:
    while (mark := (yield from reader.until(_MARKS, writer.content))) is not None:
        before = mark
        if mark == _CALLS_BEGIN:
            before += yield from reader.space()
            if not (yield from reader.literal(_BEGIN)):
                writer.content(before)
                continue
            before += _BEGIN
        elif mark != _BEGIN:
            writer.content("" if writer.calls else mark)
            continue
        no_call = yield from _read_call(reader, writer)
        if no_call is not None:
            writer.content(before + no_call)


def _read_call(reader: TextReader, writer: PartsWriter) -> Step[str | None]:
    """Returns None when a call has begun, else the text read, which is none."""
    reader.keep()
    name = yield from reader.run(_WORD_END)
    if not (yield from reader.literal(_SEPARATOR)):
        return reader.kept()
    yield from reader.space()
    if (yield from reader.peek()) != "{":
        name = yield from reader.run(_WORD_END)
        yield from reader.space()
        if not (yield from reader.literal(_FENCE)):
            return reader.kept()
    kept = reader.kept()
    name = name.strip()
    if not 0 < len(name) <= _LONGEST_NAME:
        return kept
    writer.begin(name)
    yield from read_value(reader, writer.arguments)
    yield from reader.run(_NO_FENCE)
    return None


DEEPSEEK = CallFormat(lambda tools: _script, (*_ALL, _SEPARATOR), (_CALLS_BEGIN, _BEGIN))
