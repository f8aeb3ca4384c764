"""Llama 3's and 4's JSON: `{"name": "f", "parameters": {…}}`, bare or behind `<|python_tag|>`, `;` between several.

Pure. No mark says that a call comes, so an object counts only where an answer or a line begins, and only with a name
and the key of its arguments. (vLLM takes objects anywhere in a whole answer, and none but the first words in a stream.)
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader
from pilotlight_text.tool_parsers.json_calls import read_call

_TAG = "<|python_tag|>"
_MARKS = Marks(_TAG, "\n")
_NO_SEPARATOR = re.compile(r"[^\s;,]")
_NO_SPACE = re.compile(r"\S")


def llama_json(reader: TextReader, writer: PartsWriter) -> Step[None]:
    before: str | None = ""
    while before is not None:
        before += yield from reader.run(_NO_SEPARATOR if writer.calls else _NO_SPACE)
        if (yield from reader.literal(_TAG)):
            before += _TAG + (yield from reader.space())
        if not (yield from reader.peek()):
            if not writer.calls or _TAG in before:
                writer.content(before)
            return
        no_call = yield from read_call(reader, writer, bare_name=False)
        if no_call is None:
            before = ""
            continue
        writer.content(before + no_call)
        before = yield from reader.until(_MARKS, writer.content)


LLAMA_JSON = CallFormat(lambda tools: llama_json, (_TAG,), (_TAG,))
