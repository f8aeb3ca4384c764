"""An answer format for tests: `[reasoning]`, `@name{"a": 1};` calls a function, all else is content."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_text.answer_parts.parts import (
    AnswerPart,
    ContentText,
    PartsParser,
    ReasoningText,
    ToolCallArguments,
    ToolCallBegin,
)
from pilotlight_text.conversation.conversation import FunctionTool


class MarkedParser:
    def __init__(self) -> None:
        self._state = "content"
        self._name = ""
        self._calls = 0

    def push(self, text: str) -> list[AnswerPart]:
        return [part for letter in text for part in self._letter(letter)]

    def finish(self) -> list[AnswerPart]:
        return [ContentText("@" + self._name)] if self._state == "name" else []

    def _letter(self, letter: str) -> list[AnswerPart]:
        ends = {"reasoning": "]", "arguments": ";"}.get(self._state)
        if letter == ends:
            self._state = "content"
            return []
        if self._state == "content" and letter in "[@":
            self._state, self._name = ("reasoning" if letter == "[" else "name"), ""
            return []
        if self._state == "name" and letter != "{":
            self._name += letter
            return []
        if self._state == "name":
            self._state = "arguments"
            self._calls += 1
            return [ToolCallBegin(self._calls - 1, self._name), ToolCallArguments(self._calls - 1, letter)]
        if self._state == "arguments":
            return [ToolCallArguments(self._calls - 1, letter)]
        return [ReasoningText(letter) if self._state == "reasoning" else ContentText(letter)]


class MarkedFormat:
    """Implements AnswerFormat. `asked`: tools, whether calls are looked for, and the prompt's end, per parser."""

    shows_special_tokens = False
    reads_calls = True
    reasons = True
    reasoning_marks: tuple[str, str] | None = ("[", "]")

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[FunctionTool], bool, str]] = []

    def call_envelope(self, name: str) -> tuple[str, str] | None:
        return f"@{name}", ";"

    def parser(self, tools: Sequence[FunctionTool], *, calls: bool, prompt_end: str) -> PartsParser | None:
        self.asked.append((tools, calls, prompt_end))
        return MarkedParser()
