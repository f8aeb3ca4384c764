"""What passes of one stream, and what is known of it: whole events on, told lines kept. No I/O is done here.

Responsible for bytes and counts. It must not know where they come from, or who has the rest when they stop.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import replace

from pilotlight_gateway.request_steps import TokenUsage
from pilotlight_gateway.stream_record import LeftOff, Passed
from pilotlight_protocol.answer_record import (
    BEGIN,
    END,
    MARK,
    SEVERAL,
    Resumption,
    loss_in,
    tokens_so_far,
    told_lines,
)
from pilotlight_protocol.errors import Unavailable

MOST_RECORD_BYTES = 4 * 1024 * 1024
"""A longer record is dropped: its stream cannot go on elsewhere."""

LONGEST_EVENT_BYTES = 16 * 1024 * 1024
"""A record of the prompt, or its logprobs, come in one piece; what has no end is no event."""

_USED = re.compile(rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens)": ?([0-9]{1,9})\b')
_LOST = b"\n" + MARK + b"lost "


class EventFeed:
    """`lasts`: what the last event of such a stream holds, one of them; none where nobody knows. `watch`: told of what
    is on its way, whole events, before it is.

    `passed`: bytes on their way to the client. `has_tokens`: some were generated. `ended`: the last event has passed.
    `lost`: why they stopped, where the stream itself says so.
    """

    def __init__(
        self, usage: TokenUsage, lasts: tuple[bytes, ...], watch: Callable[[bytes], None] | None = None
    ) -> None:
        self._usage = usage
        self._before = replace(usage)
        self._lasts = lasts
        self._watch = watch
        self._part = bytearray()
        self._before_piece = b""
        self._crc = 0
        self._record = bytearray()
        self._told = False
        self._several = False
        self.passed = 0
        self.has_tokens = False
        self.ended = False
        self.lost: str | None = None

    def feed(self, piece: bytes) -> bytes:
        """The whole events of it, without what is told between them: an error event must not follow half of one.
        Raises Unavailable for one that does not end."""
        events = piece
        if self._part or not piece.endswith(b"\n\n"):
            events = self._whole(piece)
        else:
            self._before_piece = piece
        if not events:
            return events
        if self._told or events.startswith(MARK) or b"\n" + MARK in events:
            return self._pass(self._heard(events))
        self.has_tokens = True
        self._usage.output_tokens += events.count(b"\ndata:") + events.startswith(b"data:")
        if b'"usage":{' in events:
            self._note_usage(events)
        return self._pass(events)

    def _whole(self, piece: bytes) -> bytes:
        """What is kept is looked at once, however small the pieces are that it comes in."""
        seam = self._before_piece[-3:]
        self._before_piece = seam + piece
        cut = max(_after(self._before_piece, b"\n\n"), _after(self._before_piece, b"\r\n\r\n")) - len(seam)
        if cut <= 0:
            self._part += piece
            if len(self._part) > LONGEST_EVENT_BYTES:
                self._part.clear()
                raise Unavailable(f"the pods sent an event without an end, longer than {LONGEST_EVENT_BYTES} bytes")
            return b""
        events = bytes(self._part) + piece[:cut]
        self._part = bytearray(piece[cut:])
        return events

    def _note_usage(self, events: bytes) -> None:
        """What a stream says it took: the prompt in its first event or its last, the output exactly in the last."""
        for name, number in _USED.findall(events):
            if name == b"prompt_tokens" or name == b"input_tokens":
                self._usage.prompt_tokens = self._before.prompt_tokens + int(number)
            elif int(number) > 1:
                self._usage.output_tokens = self._before.output_tokens + int(number)

    def _pass(self, events: bytes) -> bytes:
        self.passed += len(events)
        if self._watch is not None:
            self._watch(events)
        if self._told:
            self._crc = zlib.crc32(events, self._crc)
        elif not self.ended:
            for last in self._lasts:
                if last in events:
                    self.ended = True
        return events

    def _heard(self, events: bytes) -> bytes:
        place = (b"\n" + events).find(_LOST)
        if place >= 0:
            events, error = events[:place], events[place:]
            self.lost = loss_in(told_lines(error)[1][0])
        events, said = told_lines(events)
        for line in said:
            self._hear(line)
        return events

    def _hear(self, line: bytes) -> None:
        if line == BEGIN:
            self._told = True
            return
        if line == END:
            self.ended = True
            return
        if line == SEVERAL:
            self._several = True
        self._count(line)
        if len(self._record) + len(line) > MOST_RECORD_BYTES:
            self._several = True
            self._record.clear()
        elif not self._several:
            self._record += line + b"\n"

    def _count(self, line: bytes) -> None:
        counts = tokens_so_far(line)
        if counts is not None:
            usage, before = self._usage, self._before
            usage.prompt_tokens = before.prompt_tokens + counts.prompt
            usage.output_tokens = before.output_tokens + counts.output
            usage.cached_tokens = before.cached_tokens + counts.cached
            self.has_tokens = True

    def rest(self) -> bytes:
        """What came behind the last whole event, where that is the end and no half of one."""
        rest, self._part = bytes(self._part), bytearray()
        if self._told or rest.startswith(MARK):
            rest = self._heard(rest[: rest.rfind(b"\n") + 1])
        is_last = self.may_end or (not self._told and any(last in rest for last in self._lasts))
        return self._pass(rest) if is_last else b""

    @property
    def output_tokens(self) -> int:
        return self._usage.output_tokens - self._before.output_tokens

    @property
    def is_told(self) -> bool:
        return self._told

    @property
    def is_of_tokens(self) -> bool:
        """Its events come as tokens are generated, as far as anybody knows."""
        return self._told or bool(self._lasts)

    @property
    def may_end(self) -> bool:
        """The end of its bytes is the end of the answer, as far as anybody knows."""
        return self.ended or not self.is_of_tokens

    @property
    def can_go_on(self) -> bool:
        """Somebody else can be asked: for the rest, or for all of it where nothing has passed."""
        return not self.passed or (self._told and not self._several)

    @property
    def position(self) -> Passed:
        return Passed(self.passed, self._crc)

    def told_from(self, place: int) -> bytes | None:
        """The record behind that place; None where there is none, or it is of no use."""
        return bytes(self._record[place:]) if self._told and not self._several else None

    def continue_from(self, left_off: LeftOff) -> None:
        """As if what another process had of it had been fed here."""
        self.passed, self._crc = left_off.passed.sent, left_off.passed.crc
        if self.passed:
            self._record += left_off.told
            self._told = True
            for line in left_off.told.splitlines():
                self._count(line)

    def go_on(self, body: bytes) -> tuple[Resumption | None, bytes]:
        """What to ask for the rest with, None for all of it, and the body to ask with. What comes is fed here, too."""
        self._part, self._before_piece, self.lost = bytearray(), b"", None
        if self.passed:
            return Resumption(len(body), self.passed, self._crc), body + self._record
        self._record.clear()
        self.ended = self._told = self._several = self.has_tokens = False
        return None, body


def _after(piece: bytes, separator: bytes) -> int:
    """Where the last whole event ends."""
    place = piece.rfind(separator)
    return 0 if place < 0 else place + len(separator)
