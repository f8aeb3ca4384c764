"""JSON behind a mark: Hermes and Qwen, Granite 3 and 4 and 20B, Phi 4 mini.

    <tool_call>{"name": "f", "arguments": {…}}</tool_call>
    <|tool_call|>[{"name": "f", "arguments": {…}}, …]
    functools[{"name": "f", "arguments": {…}}]

Pure. Text before, between and behind the calls is content, as vLLM's newer parsers have it (its Hermes drops what comes
behind the first call). A closing mark inside a string closes nothing.
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader
from pilotlight_text.tool_parsers.json_calls import read_calls

_NO_CLOSER = re.compile(r"[^\s}\]]")


def marked_json(opening: tuple[str, ...], closing: tuple[str, ...] = ()) -> Script:
    marks = Marks(*opening, *closing)

    def script(reader: TextReader, writer: PartsWriter) -> Step[None]:
        is_open = False
        while (mark := (yield from reader.until(marks, writer.content))) is not None:
            if mark in closing:
                if not is_open:
                    writer.content(mark)
                is_open = False
                continue
            space = yield from reader.space()
            no_call = yield from read_calls(reader, writer, bare_name=True)
            is_open = no_call is None
            if no_call is None:
                yield from reader.run(_NO_CLOSER)  # models close more than they have opened
            else:
                writer.content(mark + space + no_call)

    return script


def _format(
    opening: tuple[str, ...], closing: tuple[str, ...] = (), envelope: tuple[str, str] | None = None
) -> CallFormat:
    script = marked_json(opening, closing)
    return CallFormat(lambda tools: script, opening + closing, opening, envelope=envelope)


HERMES = _format(
    ("<tool_call>",), ("</tool_call>",), ('<tool_call>\n{"name": "NAME", "arguments": ', "}\n</tool_call>")
)
GRANITE = _format(("<|tool_call|>", "<tool_call>"), ("</tool_call>",))
GRANITE_20B = _format(("<function_call>",), ("</function_call>",))
PHI4_MINI = _format(("functools", "<|tool_call|>"), ("<|/tool_call|>",))
JAMBA = _format(("<tool_calls>",), ("</tool_calls>",))
