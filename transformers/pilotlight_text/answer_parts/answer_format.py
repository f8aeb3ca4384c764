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
    def reasoning_end(self) -> str | None:
        """What stands between the model's reasoning and the answer (`</think>`), None for a model without."""
        ...

    def parser(self, tools: Sequence[FunctionTool], *, calls: bool, prompt_end: str) -> PartsParser | None:
        """The reader of one choice, or None: all of its text is content.

        `calls`: whether calls are looked for. `prompt_end`: the last characters of the prompt, which tell whether the
        reasoning has been opened there.
        """
        ...
