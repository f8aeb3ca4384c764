"""Reasoning between two marks, at the start of an answer: `<think>…</think>`, `[THINK]…[/THINK]`, Granite's sentences.

Pure. Reasoning that never closes is all there is: the answer has no content then. What stands in for its end (a model
that calls a function in the middle of its thoughts) is left to the next parser.
"""

from __future__ import annotations

from typing import Literal

from pilotlight_text.answer_parts.formats import ReasoningFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader

Left = Literal["open", "closed", "unsaid"]


def where_prompt_left(prompt_end: str, opening: str, closing: str) -> Left:
    """Read off the end of a prompt: templates leave `…<think>\\n` there, or `…<think>\\n\\n</think>\\n\\n`."""
    end = prompt_end.rstrip()
    if end.endswith(opening):
        return "open"
    return "closed" if end.endswith(closing) else "unsaid"


def marked_reasoning(
    opening: tuple[str, ...], closing: tuple[str, ...], *, is_open: bool, ends_too: tuple[str, ...]
) -> Script:
    """`is_open`: the text starts inside; the opening mark may be repeated. Otherwise the text must open it itself."""
    ends = Marks(*closing, *ends_too)

    def script(reader: TextReader, writer: PartsWriter) -> Step[None]:
        space = yield from reader.space()
        for mark in opening:
            if (yield from reader.literal(mark)):
                break
        else:
            if not is_open:
                writer.content(space)
                return
            writer.reasoning(space)
        end = yield from reader.until(ends, writer.reasoning)
        if end is not None and end not in closing:
            writer.content(end)

    return script


def _format(
    opening: tuple[str, ...], closing: tuple[str, ...], *, starts_inside: bool = False, calls_end_it: bool = False
) -> ReasoningFormat:
    """`starts_inside`: where neither prompt nor text opens the reasoning, it is open. `calls_end_it`: a call may come
    in the middle of it."""

    def script(prompt_end: str, calls: tuple[str, ...]) -> Script | None:
        left = where_prompt_left(prompt_end, opening[0], closing[0])
        if left == "closed":
            return None
        is_open = left == "open" or starts_inside
        return marked_reasoning(opening, closing, is_open=is_open, ends_too=calls if calls_end_it else ())

    return ReasoningFormat(script, opening + closing, closing[0], opening[0])


DEEPSEEK_R1 = _format(("<think>",), ("</think>",), starts_inside=True)
QWEN3 = _format(("<think>",), ("</think>",), calls_end_it=True)
MISTRAL = _format(("[THINK]",), ("[/THINK]",), calls_end_it=True)
GRANITE = _format(
    ("Here is my thought process:", "Here's my thought process:"), ("Here is my response:", "Here's my response:")
)
