"""Llama 4: JSON as its own chat template has it, or Python's words as vLLM's has it, between `<|python_start|>` and
`<|python_end|>` or bare. Pure. The first character tells which.
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader
from pilotlight_text.tool_parsers.json_calls import read_call
from pilotlight_text.tool_parsers.llama_json import llama_json
from pilotlight_text.tool_parsers.pythonic import read_list

_START, _END = "<|python_start|>", "<|python_end|>"
_MARKS = Marks(_START, _END)
_NO_SEPARATOR = re.compile(r"[^\s;,]")


def _script(reader: TextReader, writer: PartsWriter) -> Step[None]:
    before = yield from reader.space()
    mark: str | None = None
    if (yield from reader.literal(_START)):
        mark = _START
    elif (yield from reader.peek()) == "[":
        yield from read_list(reader, writer, before)
    elif (yield from reader.peek()) == "{":
        yield from llama_json(reader, writer)
        return
    else:
        writer.content(before)
        mark = yield from reader.until(_MARKS, writer.content)
    while mark is not None:
        if mark == _START:
            yield from _read_behind(reader, writer, before + mark)
        elif not writer.calls:
            writer.content(mark)
        before = ""
        mark = yield from reader.until(_MARKS, writer.content)


def _read_behind(reader: TextReader, writer: PartsWriter, before: str) -> Step[None]:
    before += yield from reader.space()
    if (yield from reader.peek()) == "[":
        yield from read_list(reader, writer, before)
        return
    while (no_call := (yield from read_call(reader, writer, bare_name=False))) is None:
        before = yield from reader.run(_NO_SEPARATOR)
        if (yield from reader.peek()) != "{":
            return
    writer.content(before + no_call)


LLAMA4 = CallFormat(lambda tools: _script, (_START, _END), (_START,))
