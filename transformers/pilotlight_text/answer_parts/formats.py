"""What a module of a format says of itself: its marks, and the script that reads it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pilotlight_text.answer_parts.scripted_parser import Script


class DescribedFunction(Protocol):
    """A function that a request offers; `parameters` is the JSON schema of its arguments."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any] | None: ...


class CallFormat(msgspec.Struct, frozen=True):
    """`marks`: the fixed texts that some tokenizers have as special tokens. `opening`: those that begin a call wherever
    they stand. `reads_reasoning`: the script finds the reasoning, too. `envelope`: what a model writes around the
    JSON of a call's arguments, NAME standing for the function's."""

    script: Callable[[Sequence[DescribedFunction]], Script]
    marks: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()
    reads_reasoning: bool = False
    envelope: tuple[str, str] | None = None


class ReasoningFormat(msgspec.Struct, frozen=True):
    """`script(prompt_end, opening)` is None where the prompt says that no reasoning comes; `opening` are the marks of
    calls. `opening` and `closing`: what stands around the reasoning, where that is a fixed text."""

    script: Callable[[str, tuple[str, ...]], Script | None]
    marks: tuple[str, ...] = ()
    closing: str | None = None
    opening: str | None = None
