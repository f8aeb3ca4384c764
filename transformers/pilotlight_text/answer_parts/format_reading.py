"""The parser of one choice: a format of calls, one of reasoning, or both, one behind the other. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_text.answer_parts.formats import DescribedFunction
from pilotlight_text.answer_parts.known_formats import call_format, reasoning_format
from pilotlight_text.answer_parts.parts import PartsParser
from pilotlight_text.answer_parts.scripted_parser import ReasoningThenCalls, ScriptedParser


def parser_of(
    calls: str | None, reasoning: str | None, tools: Sequence[DescribedFunction], prompt_end: str
) -> PartsParser | None:
    """None: all of the text is content. `prompt_end`: the last characters of the prompt, which may have opened or
    closed the reasoning."""
    called = call_format(calls) if calls else None
    if called is not None and called.reads_reasoning:
        return ScriptedParser(called.script(tools))
    script = None
    if reasoning is not None:
        script = reasoning_format(reasoning).script(prompt_end, called.opening if called else ())
    if called is None:
        return None if script is None else ScriptedParser(script)
    caller = ScriptedParser(called.script(tools))
    return caller if script is None else ReasoningThenCalls(ScriptedParser(script), caller)


def marks_of(calls: str | None, reasoning: str | None) -> tuple[str, ...]:
    marks = call_format(calls).marks if calls else ()
    return marks + (reasoning_format(reasoning).marks if reasoning else ())
