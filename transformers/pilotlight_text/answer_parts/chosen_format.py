"""How one model writes its answers, as the seam has it. Pure; imports what reads them with the first answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilotlight_text.answer_parts.formats import DescribedFunction
    from pilotlight_text.answer_parts.parts import PartsParser


class ChosenFormat:
    """`calls` and `reasoning` are of format_names; `special_tokens` gives the texts of the tokenizer's."""

    def __init__(
        self, calls: str | None, reasoning: str | None, special_tokens: Callable[[], frozenset[str]] = frozenset
    ) -> None:
        self.calls = calls
        self.reasoning = reasoning
        self._special_tokens = special_tokens
        self._shows: bool | None = None

    @property
    def shows_special_tokens(self) -> bool:
        """Some of the marks are special tokens, which a text does not show otherwise."""
        if self._shows is None:
            from pilotlight_text.answer_parts.format_reading import marks_of

            self._shows = not self._special_tokens().isdisjoint(marks_of(self.calls, self.reasoning))
        return self._shows

    @property
    def reads_calls(self) -> bool:
        return self.calls is not None

    @property
    def reasons(self) -> bool:
        return self.reasoning is not None

    @property
    def reasoning_marks(self) -> tuple[str, str] | None:
        if self.reasoning is None:
            return None
        from pilotlight_text.answer_parts.known_formats import reasoning_format

        found = reasoning_format(self.reasoning)
        return None if found.closing is None or found.opening is None else (found.opening, found.closing)

    def call_envelope(self, name: str) -> tuple[str, str] | None:
        if self.calls is None or self.shows_special_tokens:
            return None
        from pilotlight_text.answer_parts.known_formats import call_format

        found = call_format(self.calls).envelope
        return None if found is None else (found[0].replace("NAME", name), found[1])

    def parser(self, tools: Sequence[DescribedFunction], *, calls: bool, prompt_end: str) -> PartsParser | None:
        from pilotlight_text.answer_parts.format_reading import parser_of

        return parser_of(self.calls if calls else None, self.reasoning, tools, prompt_end)
