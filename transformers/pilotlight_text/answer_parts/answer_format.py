"""How one model writes an answer that has more than words for the user: the seam of those who know. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pilotlight_text.answer_parts.parts import PartsParser
    from pilotlight_text.conversation.conversation import FunctionTool


class AnswerFormat(Protocol):
    @property
    def shows_special_tokens(self) -> bool:
        """Its marks are special tokens, which are kept out of a text otherwise."""
        ...

    @property
    def reads_calls(self) -> bool:
        """It is known how the model writes calls."""
        ...

    @property
    def reasons(self) -> bool:
        """An answer may begin with reasoning."""
        ...

    @property
    def reasoning_marks(self) -> tuple[str, str] | None:
        """What opens and what closes the reasoning (`<think>`, `</think>`), None where that is no fixed text."""
        ...

    def call_envelope(self, name: str) -> tuple[str, str] | None:
        """What the model writes before and behind the JSON of a call's arguments, None where it writes no JSON, or
        writes special tokens, which no grammar over text can ask for."""
        ...

    def parser(self, tools: Sequence[FunctionTool], *, calls: bool, prompt_end: str) -> PartsParser | None:
        """The reader of one choice, or None: all of its text is content.

        `calls`: whether calls are looked for. `prompt_end`: the last characters of the prompt, which tell whether the
        reasoning has been opened there.
        """
        ...
