"""Qwen3-coder's tags:

    <tool_call>
    <function=f>
    <parameter=a>
    value
    </parameter>
    </function>
    </tool_call>

Pure. A string is handed on as it comes, every other value when it is whole: its type is the schema's to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pilotlight_text.answer_parts.formats import CallFormat, DescribedFunction
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader, Told
from pilotlight_text.tool_parsers.schema_types import parameter_types, written_as_json

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_OUTSIDE = Marks(_CALL, _CALL_END, _FUNCTION)
_INSIDE = Marks(_PARAMETER, _FUNCTION_END, _CALL_END)
_VALUE_ENDS = Marks(_PARAMETER_END, _PARAMETER, _FUNCTION_END)
_NAME_END = re.compile(r"[<>\n]")
_LONGEST_NAME = 256


def _script(tools: Sequence[DescribedFunction]) -> Script:
    def script(reader: TextReader, writer: PartsWriter) -> Step[None]:
        while (mark := (yield from reader.until(_OUTSIDE, writer.content))) is not None:
            before = mark
            if mark == _CALL:
                before += yield from reader.space()
                if not (yield from reader.literal(_FUNCTION)):
                    writer.content(before)
                    continue
                before += _FUNCTION
            elif mark == _CALL_END:
                writer.content("" if writer.calls else mark)
                continue
            reader.keep()
            name = yield from _read_name(reader)
            kept = reader.kept()
            if name is None:
                writer.content(before + kept)
            else:
                writer.begin(name)
                yield from _read_parameters(reader, writer, name, tools)
                space = yield from reader.space()
                if not (yield from reader.literal(_CALL_END)):
                    writer.content(space)

    return script


def _read_name(reader: TextReader) -> Step[str | None]:
    """What stands before the tag's end, which is read, too."""
    name = yield from reader.run(_NAME_END)
    ended = yield from reader.literal(">")
    name = name.strip()
    return name if ended and 0 < len(name) <= _LONGEST_NAME else None


def _read_parameters(
    reader: TextReader, writer: PartsWriter, function: str, tools: Sequence[DescribedFunction]
) -> Step[None]:
    between = "{"
    mark = yield from reader.until(_INSIDE, _ignore)
    while mark == _PARAMETER:
        key = yield from _read_name(reader)
        if key is not None:
            writer.arguments(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
            between = ", "
            types = parameter_types(tools, function, key)
            if types == {"string"}:
                mark = yield from _read_string(reader, writer.arguments)
            else:
                mark = yield from _read_other(reader, writer.arguments, types)
        if key is None or mark == _PARAMETER_END:
            mark = yield from reader.until(_INSIDE, _ignore)
    if mark is not None:
        writer.arguments("{}" if between == "{" else "}")


def _read_string(reader: TextReader, told: Told) -> Step[str | None]:
    """One line break behind the tag and one before the next belong to the tags. Returns the mark that ended it."""
    held = ""

    def tell(text: str) -> None:
        nonlocal held
        text = held + text
        held = "\n" if text.endswith("\n") else ""
        told(_escaped(text.removesuffix("\n")))

    told('"')
    yield from reader.literal("\n")
    mark = yield from reader.until(_VALUE_ENDS, tell)
    told(_escaped(held) if mark is None else '"')
    return mark


def _read_other(reader: TextReader, told: Told, types: frozenset[str]) -> Step[str | None]:
    written: list[str] = []
    yield from reader.literal("\n")
    mark = yield from reader.until(_VALUE_ENDS, written.append)
    told(written_as_json("".join(written).removesuffix("\n"), types))
    return mark


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _ignore(text: str) -> None:
    pass


QWEN_XML = CallFormat(_script, (_CALL, _CALL_END), (_CALL, _FUNCTION))
