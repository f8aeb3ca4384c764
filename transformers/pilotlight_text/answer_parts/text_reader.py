"""A choice's text, read as it comes: the steps that a parser's script is made of.

Pure. A script is a generator that reads through `TextReader` and tells `PartsWriter` what it has found; where a step
needs more text than has come, it yields. So a format is read top to bottom, whatever pieces its text comes in, and
every character is looked at a bounded number of times: a step hands on at once what can be nothing else, and holds back
no more than the longest of its marks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

Told = Callable[[str], object]
Result = TypeVar("Result")
Step = Generator[None, None, Result]

_NO_SPACE = re.compile(r"\S")


class Marks:
    """Fixed texts to look for, none of which starts another."""

    def __init__(self, *texts: str) -> None:
        self.pattern = re.compile("|".join(re.escape(text) for text in texts))
        self._beginnings = frozenset(text[:length] for text in texts for length in range(1, len(text)))
        self._first = re.compile(f"[{re.escape(''.join(sorted({text[0] for text in texts})))}]")
        self._longest = max(map(len, texts)) - 1

    def may_begin(self, text: str, at: int) -> int:
        """Where, not before `at`, a mark may begin that more text would complete; the length of `text` for nowhere."""
        end = len(text)
        for found in self._first.finditer(text, max(at, end - self._longest)):
            if text[found.start() :] in self._beginnings:
                return found.start()
        return end


class TextReader:
    """`text[at:]` has come and is not read yet; when `ended`, nothing more comes."""

    __slots__ = ("_kept", "at", "ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._kept: list[str] | None = None

    def add(self, text: str) -> None:
        self.text = self.text[self.at :] + text if self.at < len(self.text) else text
        self.at = 0

    def take(self, end: int) -> str:
        """What comes before `end` is read with this."""
        text = self.text[self.at : end]
        self.at = end
        if self._kept is not None:
            self._kept.append(text)
        return text

    def keep(self) -> None:
        """From here on what is read is kept, for the case that it was something else."""
        self._kept = []

    def kept(self) -> str:
        """What was read since `keep`, which ends here."""
        text = "".join(self._kept or ())
        self._kept = None
        return text

    def peek(self) -> Step[str]:
        """The next character, unread; empty at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def until(self, marks: Marks, told: Told) -> Step[str | None]:
        """Tells the text before the next mark and returns the mark, read; None when the text ends without one."""
        while True:
            found = marks.pattern.search(self.text, self.at)
            if found is not None:
                if found.start() > self.at:
                    told(self.take(found.start()))
                return self.take(found.end())
            end = len(self.text) if self.ended else marks.may_begin(self.text, self.at)
            if end > self.at:
                told(self.take(end))
            if self.ended:
                return None
            yield

    def literal(self, literal: str) -> Step[bool]:
        """Reads `literal` if that comes next, and nothing if it does not."""
        while True:
            come = self.text[self.at : self.at + len(literal)]
            if come == literal:
                self.take(self.at + len(literal))
                return True
            if self.ended or not literal.startswith(come):
                return False
            yield

    def run(self, other: re.Pattern[str]) -> Step[str]:
        """Reads up to the first match of `other`, a pattern of one character, and returns what was before it."""
        read = []
        while True:
            found = other.search(self.text, self.at)
            read.append(self.take(len(self.text) if found is None else found.start()))
            if found is not None or self.ended:
                return "".join(read)
            yield

    def space(self) -> Step[str]:
        return self.run(_NO_SPACE)

    def short(self, pattern: re.Pattern[str], longest: int) -> Step[re.Match[str] | None]:
        """Reads what `pattern` matches here. None, and nothing read, when more text than `longest` would be needed or
        there is no more. The pattern must end in what cannot be part of a longer match."""
        while True:
            found = pattern.match(self.text, self.at)
            if found is not None:
                self.take(found.end())
                return found
            if self.ended or len(self.text) - self.at > longest:
                return None
            yield
