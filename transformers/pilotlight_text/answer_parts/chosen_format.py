"""How one model writes its answers: a format of calls, one of reasoning, or both, read one behind the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_text.answer_parts.formats import DescribedFunction
from pilotlight_text.answer_parts.known_formats import call_format, reasoning_format
from pilotlight_text.answer_parts.parts import PartsParser
from pilotlight_text.answer_parts.scripted_parser import ReasoningThenCalls, ScriptedParser


class ChosenFormat:
    """`calls` and `reasoning` are names of known_formats, `special_tokens` the texts of the tokenizer's."""

    def __init__(self, calls: str | None, reasoning: str | None, special_tokens: frozenset[str] = frozenset()) -> None:
        self.calls = calls
        self.reasoning = reasoning
        self._special_tokens = special_tokens

    @property
    def shows_special_tokens(self) -> bool:
        """Some of the marks are special tokens, which a text does not show otherwise."""
        marks = call_format(self.calls).marks if self.calls else ()
        marks += reasoning_format(self.reasoning).marks if self.reasoning else ()
        return not self._special_tokens.isdisjoint(marks)

    @property
    def reasoning_end(self) -> str | None:
        return reasoning_format(self.reasoning).closing if self.reasoning else None

    def parser(self, tools: Sequence[DescribedFunction], *, calls: bool, prompt_end: str) -> PartsParser | None:
        """The reader of one choice, or None: all of its text is content. `prompt_end`: the last characters of the
        prompt, which may have opened or closed the reasoning."""
        called = call_format(self.calls) if self.calls and calls else None
        if called is not None and called.reads_reasoning:
            return ScriptedParser(called.script(tools))
        script = None
        if self.reasoning is not None:
            script = reasoning_format(self.reasoning).script(prompt_end, called.opening if called else ())
        if called is None:
            return None if script is None else ScriptedParser(script)
        caller = ScriptedParser(called.script(tools))
        return caller if script is None else ReasoningThenCalls(ScriptedParser(script), caller)
