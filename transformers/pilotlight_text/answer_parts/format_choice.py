"""Which formats a model's answers have: as the operator says, else as its chat template writes them.

Pure. A template has to write the calls and the reasoning of earlier turns, so it holds their marks.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class FormatChoice(msgspec.Struct, frozen=True):
    """Names of known_formats; `why` is for the log."""

    calls: str | None
    reasoning: str | None
    why: str


class _Sign(msgspec.Struct, frozen=True):
    """A format is the template's when all of these texts stand in it."""

    format: str
    texts: tuple[str, ...]


# The first that fits: what is told apart by more comes first.
_CALLS = (_Sign("hermes", ("<tool_call>", "</tool_call>")),)
_REASONING = (
    _Sign("deepseek_r1", ("<｜Assistant｜>", "</think>")),
    _Sign("qwen3", ("</think>",)),
)


def chosen_formats(
    templates: Iterable[str], tool_parser: str | None = None, reasoning_parser: str | None = None
) -> FormatChoice:
    """`templates`: the sources of the model's chat templates; the parsers are what the operator names, if so."""
    source = "\n".join(templates)
    calls, why_calls = _choice(_CALLS, source, tool_parser)
    reasoning, why_reasoning = _choice(_REASONING, source, reasoning_parser)
    return FormatChoice(calls, reasoning, f"calls: {why_calls}; reasoning: {why_reasoning}")


def _choice(signs: Iterable[_Sign], source: str, named: str | None) -> tuple[str | None, str]:
    if named is not None:
        return named, f"{named}, as the command line says"
    for sign in signs:
        if all(text in source for text in sign.texts):
            marks = " and ".join(repr(text) for text in sign.texts)
            return sign.format, f"{sign.format}, since the chat template has {marks}"
    return None, "none, since the chat template shows none that is known"
