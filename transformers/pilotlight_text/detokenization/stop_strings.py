"""Stop strings across chunk borders.

Responsible for finding the first stop string in text that arrives in pieces, and for holding back no more of it than
the longest suffix that could still become one. Pure. The outcome never depends on how the text was cut: the match that
is complete first wins (vLLM, which looks after each token, does the same), and of two that end together the longer one.

A special token that the text does not show is a mark in what is searched: a lone surrogate, which no text holds. A stop
string that holds such a token's text is looked for with the mark in its place, and as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

_FIRST_MARK = 0xD800
_NONE: Mapping[str, int] = MappingProxyType({})


class StopStrings:
    """The stop strings of one request; `scanner()` gives one scanner per choice.

    `hidden`: text to id of the tokens that are not shown. `marks`: what to push in place of one, by its id.
    """

    def __init__(
        self, asked: Sequence[str], *, include_in_output: bool = False, hidden: Mapping[str, int] = _NONE
    ) -> None:
        self.marks: dict[int, str] = {}
        self.asked_as = {self._marked(stop, hidden): stop for stop in asked}
        stops = dict.fromkeys([*self.asked_as, *asked])
        self.stops = tuple(stops)
        self.include_in_output = include_in_output
        self._unmarked = {ord(mark): None for mark in self.marks.values()}
        self.first_characters = frozenset(stop[0] for stop in stops)
        self.proper_prefixes = frozenset(stop[:length] for stop in stops for length in range(1, len(stop)))
        self.longest = max(map(len, stops), default=0)

    def __bool__(self) -> bool:
        return bool(self.stops)

    def scanner(self) -> StopScanner:
        return StopScanner(self)

    def shown(self, text: str) -> str:
        """`text` without marks."""
        return text.translate(self._unmarked) if self.marks else text

    def _marked(self, stop: str, hidden: Mapping[str, int]) -> str:
        for text in sorted(filter(stop.__contains__, hidden), key=len, reverse=True):
            if text in stop:
                mark = self.marks.setdefault(hidden[text], chr(_FIRST_MARK + len(self.marks)))
                stop = stop.replace(text, mark)
        return stop


class StopScanner:
    """`push` returns the text that may be shown now; `matched` is the stop string once one is complete."""

    __slots__ = ("_held", "_spec", "marks", "matched")

    def __init__(self, spec: StopStrings) -> None:
        self._spec = spec
        self.marks = spec.marks
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        if self.matched is not None:
            return ""
        text = self._held + text
        found = self._first_match(text)
        if found is not None:
            start, stop = found
            self.matched = self._spec.asked_as.get(stop, stop)
            self._held = ""
            shown = self._spec.shown(text[:start])
            return shown + self.matched if self._spec.include_in_output else shown
        keep = self._possible_start(text)
        self._held = text[keep:]
        return self._spec.shown(text[:keep])

    def finish(self) -> str:
        """The text still held back, once no more can come."""
        held, self._held = self._held, ""
        return self._spec.shown(held)

    def _first_match(self, text: str) -> tuple[int, str] | None:
        best: tuple[int, int, str] | None = None
        for stop in self._spec.stops:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        return None if best is None else best[1:]

    def _possible_start(self, text: str) -> int:
        """Index of the longest suffix of `text` that begins a stop string, or its length."""
        spec = self._spec
        for start in range(max(0, len(text) - spec.longest + 1), len(text)):
            if text[start] in spec.first_characters and text[start:] in spec.proper_prefixes:
                return start
        return len(text)
