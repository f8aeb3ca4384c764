"""GPT-OSS's harmony: messages on channels, in which reasoning, calls and the answer are told apart.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
    <|constrain|>json<|message|>{…}<|call|>
    <|channel|>final<|message|>…<|return|>

Pure. The prompt ends in `<|start|>assistant`; the marks are special tokens. Analysis is reasoning, a message to a
function a call (on whatever channel), one to a tool of OpenAI's own, which is nobody's here, reasoning, too, and every
other one content. Several of one kind are told with a line break between, as vLLM does it with a whole answer.
"""

from __future__ import annotations

import re

from pilotlight_text.answer_parts.formats import CallFormat
from pilotlight_text.answer_parts.parts_writer import PartsWriter
from pilotlight_text.answer_parts.scripted_parser import Script
from pilotlight_text.answer_parts.text_reader import Marks, Step, TextReader, Told

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKS = (_START, _CHANNEL, _MESSAGE, _CONSTRAIN, *_ENDS)
_OPENING = (_START, _CHANNEL, _MESSAGE, "to=")
_NEXT = Marks(_START, _CHANNEL)
_HEADER_ENDS = Marks(_MESSAGE, *_ENDS)
_BODY_ENDS = Marks(*_ENDS, _START, _CHANNEL)
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_ANALYSIS = re.compile(r"<\|channel\|>\s*analysis\b")
_OPENAIS_OWN = frozenset(("python", "browser", "container"))


def harmony(*, calls: bool) -> Script:
    def script(reader: TextReader, writer: PartsWriter) -> Step[None]:
        messages = _Messages(writer, calls=calls)
        opening: str | None = ""
        while opening is not None:
            opening = opening or (yield from _read_opening(reader))
            if not opening:
                opening = yield from reader.until(_NEXT, messages.content)
                continue
            header = [opening]
            if opening != _MESSAGE:
                mark = yield from reader.until(_HEADER_ENDS, header.append)
                if mark is None:
                    writer.content("".join(header))
                    return
                if mark != _MESSAGE:
                    opening = ""
                    continue
            end = yield from reader.until(_BODY_ENDS, messages.begun("".join(header)))
            messages.ended(whole=end is not None)
            opening = "" if end in _ENDS else end

    return script


def _read_opening(reader: TextReader) -> Step[str]:
    """What a message begins with, read; empty, and white space read alone, where something else comes."""
    yield from reader.space()
    for opening in _OPENING:
        if (yield from reader.literal(opening)):
            return opening
    return ""


class _Messages:
    """Where the bodies of messages go."""

    def __init__(self, writer: PartsWriter, *, calls: bool) -> None:
        self._writer = writer
        self._calls = calls
        self._reasoned = self._said = False
        self._is_call = self._has_arguments = False
        self._is_first_piece = True

    def begun(self, header: str) -> Told:
        """Takes the pieces of the body that follows."""
        self._is_first_piece = True
        to = _RECIPIENT.search(header)
        recipient = to.group(1) if to is not None else "assistant"
        if recipient.split(".")[0] in _OPENAIS_OWN:
            return self.reasoning
        if recipient not in ("assistant", "user") and self._calls:
            self._is_call, self._has_arguments = True, False
            self._writer.begin(recipient.removeprefix("functions."))
            return self._arguments
        return self.reasoning if _ANALYSIS.search(header) else self.content

    def ended(self, *, whole: bool) -> None:
        if self._is_call and whole and not self._has_arguments:
            self._writer.arguments("{}")
        self._is_call = False
        self._is_first_piece = True

    def reasoning(self, text: str) -> None:
        self._writer.reasoning("\n" + text if self._reasoned and self._is_first_piece else text)
        self._reasoned, self._is_first_piece = True, False

    def content(self, text: str) -> None:
        self._writer.content("\n" + text if self._said and self._is_first_piece else text)
        self._said, self._is_first_piece = True, False

    def _arguments(self, text: str) -> None:
        self._has_arguments = True
        self._writer.arguments(text)


HARMONY = CallFormat(lambda tools: harmony(calls=True), MARKS, reads_reasoning=True)
