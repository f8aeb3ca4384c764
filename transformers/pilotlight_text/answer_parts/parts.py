"""The parts of one choice's answer, in the order in which they come, and the seam of those who find them in its text.

Pure. A part is a delta: parts of one kind that follow each other belong together. It must not know how answers are
written (OpenAI, Responses, Anthropic, V2).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class ContentText(msgspec.Struct, frozen=True):
    """Words for the user."""

    text: str


class ReasoningText(msgspec.Struct, frozen=True):
    """What the model says to itself before it answers."""

    text: str


class ToolCallBegin(msgspec.Struct, frozen=True):
    """A call of the function `name`; `call` counts the choice's calls from 0."""

    call: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True):
    """More of a call's arguments: `text` is a piece of JSON; all pieces of a call are one JSON object."""

    call: int
    text: str


AnswerPart = ContentText | ReasoningText | ToolCallBegin | ToolCallArguments


class PartsParser(Protocol):
    """Reads one choice. However its text is cut into pieces, the parts joined are the same; it never raises: what is
    no call after all comes out as content."""

    def push(self, text: str) -> list[AnswerPart]:
        """The parts that are certain now."""
        ...

    def finish(self) -> list[AnswerPart]:
        """What is left when the choice has ended, wherever that was."""
        ...
