"""Reads a choice's text as it might come: whole, or in pieces, of which the parts must be the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.formats import DescribedFunction
from pilotlight_text.answer_parts.parts import AnswerPart, ContentText, PartsParser, ReasoningText, ToolCallBegin
from pilotlight_text.answer_parts.parts_writer import joined

Make = Callable[[], PartsParser]
Short = list[tuple[str, ...]]


@dataclass(frozen=True)
class Function:
    name: str
    parameters: dict[str, object] = field(default_factory=dict)


def maker(
    calls: str | None, reasoning: str | None = None, prompt_end: str = "", tools: tuple[DescribedFunction, ...] = ()
) -> Make:
    chosen = ChosenFormat(calls, reasoning)

    def make() -> PartsParser:
        parser = chosen.parser(tools, calls=calls is not None, prompt_end=prompt_end)
        assert parser is not None
        return parser

    return make


def read(make: Make, pieces: Iterable[str]) -> list[AnswerPart]:
    parser = make()
    parts = [part for piece in pieces for part in parser.push(piece)]
    return joined(parts + parser.finish())


def read_any_way(make: Make, text: str) -> Short:
    """The parts of `text`, which are the same for every split in two, character by character, and random pieces."""
    whole = read(make, [text])
    ways = [[text[:at], text[at:]] for at in range(1, len(text))]
    ways.append(list(text))
    rng = random.Random(text)
    for _ in range(40):
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(2, 12)))
        ways.append([text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    for pieces in ways:
        assert read(make, pieces) == whole, pieces
    return short(whole)


def short(parts: Iterable[AnswerPart]) -> Short:
    """("content", text), ("reasoning", text), (name, arguments): as a table of cases writes them."""
    out: Short = []
    for part in parts:
        if isinstance(part, ContentText):
            out.append(("content", part.text))
        elif isinstance(part, ReasoningText):
            out.append(("reasoning", part.text))
        elif isinstance(part, ToolCallBegin):
            out.append((part.name, ""))
        else:
            name, arguments = out[-1]
            out[-1] = (name, arguments + part.text)
    return out
