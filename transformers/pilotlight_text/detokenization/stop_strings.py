"""Stop strings across chunk borders.

Responsible for finding the first stop string in text that arrives in pieces, and for holding back no more of it than
the longest suffix that could still become one. Pure. The outcome never depends on how the text was cut: the match that
is complete first wins (vLLM, which looks after each token, does the same), and of two that end together the longer one.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of one request; `scanner()` gives one scanner per choice."""

    def __init__(self, stops: Sequence[str], *, include_in_output: bool = False) -> None:
        self.stops = tuple(stops)
        self.include_in_output = include_in_output
        self.first_characters = frozenset(stop[0] for stop in stops)
        self.proper_prefixes = frozenset(stop[:length] for stop in stops for length in range(1, len(stop)))
        self.longest = max(map(len, stops), default=0)

    def __bool__(self) -> bool:
        return bool(self.stops)

    def scanner(self) -> StopScanner:
        return StopScanner(self)


class StopScanner:
    """`push` returns the text that may be shown now; `matched` is the stop string once one is complete."""

    __slots__ = ("_held", "_spec", "matched")

    def __init__(self, spec: StopStrings) -> None:
        self._spec = spec
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        if self.matched is not None:
            return ""
        text = self._held + text
        found = self._first_match(text)
        if found is not None:
            start, self.matched = found
            self._held = ""
            return text[: start + len(self.matched)] if self._spec.include_in_output else text[:start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """The text still held back, once no more can come."""
        held, self._held = self._held, ""
        return held

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
