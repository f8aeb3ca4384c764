"""A parser that is a script over a choice's text, and two of them one behind the other. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, PartsParser
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.text_reader import Step, TextReader

Script = Callable[[TextReader, PartsWriter], Step[None]]


class ScriptedParser:
    """What is left of the text when the script has ended is content."""

    __slots__ = ("_reader", "_step", "_writer", "is_over")

    def __init__(self, script: Script) -> None:
        self._reader = TextReader()
        self._writer = PartsWriter()
        self._step = script(self._reader, self._writer)
        self.is_over = False
        self._go_on()

    def push(self, text: str) -> list[AnswerPart]:
        self._reader.add(text)
        self._go_on()
        return self._writer.take()

    def finish(self) -> list[AnswerPart]:
        self._reader.ended = True
        self._go_on()
        self._writer.finish()
        return self._writer.take()

    def _go_on(self) -> None:
        if not self.is_over:
            try:
                next(self._step)
            except StopIteration:
                self.is_over = True
        if self.is_over:
            self._writer.content(self._reader.take(len(self._reader.text)))


class ReasoningThenCalls:
    """What `reasoning` leaves as content is read by `calls`."""

    __slots__ = ("_calls", "_reasoning")

    def __init__(self, reasoning: ScriptedParser, calls: PartsParser) -> None:
        self._reasoning: ScriptedParser | None = reasoning
        self._calls = calls

    def push(self, text: str) -> list[AnswerPart]:
        if self._reasoning is None:
            return self._calls.push(text)
        parts = self._read_on(self._reasoning.push(text))
        if self._reasoning.is_over:
            parts += self._read_on(self._reasoning.finish())
            self._reasoning = None
        return parts

    def finish(self) -> list[AnswerPart]:
        parts = [] if self._reasoning is None else self._read_on(self._reasoning.finish())
        return parts + self._calls.finish()

    def _read_on(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        out: list[AnswerPart] = []
        for part in parts:
            if isinstance(part, ContentText):
                out += self._calls.push(part.text)
            else:
                out.append(part)
        return out
