"""What a parser has found, gathered into the parts of an answer.

Pure. White space that stands alone before, between or behind calls is how a model sets them apart, and is left out.
"""

from __future__ import annotations

from itertools import groupby

from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, ReasoningText, ToolCallArguments, ToolCallBegin


class PartsWriter:
    """`take` after every piece of text, `finish` before the last `take`. `calls` have begun."""

    __slots__ = ("_at_edge", "_parts", "_space", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self._parts: list[AnswerPart] = []
        self._at_edge = True
        self._space: list[str] = []

    def content(self, text: str) -> None:
        if self._at_edge:
            if text.isspace():
                self._space.append(text)
                return
            if not text:
                return
            self._at_edge = False
            text = "".join(self._space) + text
            self._space.clear()
        if text:
            self._parts.append(ContentText(text))

    def reasoning(self, text: str) -> None:
        if text:
            self._parts.append(ReasoningText(text))

    def begin(self, name: str) -> None:
        self._space.clear()
        self._at_edge = True
        self._parts.append(ToolCallBegin(self.calls, name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the call that has begun last."""
        if text:
            self._parts.append(ToolCallArguments(self.calls - 1, text))

    def finish(self) -> None:
        if self._space and self.calls == 0:
            self._parts.append(ContentText("".join(self._space)))
        self._space.clear()

    def take(self) -> list[AnswerPart]:
        parts = self._parts
        self._parts = []
        return parts if len(parts) < 2 else joined(parts)


def joined(parts: list[AnswerPart]) -> list[AnswerPart]:
    """Neighbours of one kind and call as one part."""
    out: list[AnswerPart] = []
    for _, run in groupby(parts, _kind):
        same = list(run)
        first = same[0]
        if len(same) == 1 or isinstance(first, ToolCallBegin):
            out += same
            continue
        text = "".join(part.text for part in same if not isinstance(part, ToolCallBegin))
        if isinstance(first, ToolCallArguments):
            out.append(ToolCallArguments(first.call, text))
        else:
            out.append(type(first)(text))
    return out


def _kind(part: AnswerPart) -> tuple[type, int]:
    call = part.call if isinstance(part, ToolCallBegin | ToolCallArguments) else -1
    return type(part), call
