"""How a streamed answer that broke is asked to go on elsewhere: what is told of it meanwhile, and given back. Pure.

    x-pilotlight-tell: SEED                 tell, in comments of the stream, of which tokens it is made
    :~begin                                 a record is told; bytes are counted from here on, comments left out
    :~prompt CRC32                          of the prompt's token ids
    :~tokens P O C [[event, …], …]          tokens of prompt and output and cached ones so far, and the events that
                                            what follows was made of, as they came
    :~time UNIX_SECONDS                     it says that time, after its first tokens
    :~several                               it is made of more than one generation, and cannot go on elsewhere
    :~lost MESSAGE                          the tokens stopped coming; somebody else may have the rest
    :~end                                   nothing more comes, or an error that is the same everywhere

    x-pilotlight-resume: BODY SENT CRC32    go on: the body is the request's BODY bytes and then what was told; the
                                            client has SENT bytes of the answer

Who makes the text replays the told events, by which it makes the same bytes again; SENT of them are left out. So nobody
but who makes text knows what an answer looks like. The seed decides what would else differ: the time and random ids.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import TokenEvent

TELL = "x-pilotlight-tell"
RESUME = "x-pilotlight-resume"
MARK = b":~"
"""Begins each line that is told. No line of an event begins so."""

BEGIN, SEVERAL, END = b"begin", b"several", b"end"
_PROMPT, _TOKENS, _TIME, _LOST = b"prompt ", b"tokens ", b"time ", b"lost "
_LONGEST_MESSAGE = 500

Batch = list[TokenEvent]
_batches = msgspec.json.Decoder(list[Batch])
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Seed:
    """`created_s`: Unix seconds at which the answer counts as made. `secret`: what random ids are made of."""

    created_s: int
    secret: str

    @property
    def header(self) -> str:
        return f"{self.created_s} {self.secret}"

    @classmethod
    def read(cls, header: str) -> Seed:
        """Raises InvalidInput."""
        created, _, secret = header.partition(" ")
        if not created.isascii() or not created.isdigit() or len(created) > 12 or not secret:
            raise InvalidInput(f"{TELL} must be Unix seconds and a secret")
        return cls(int(created), secret)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What the client has of an answer: `sent` bytes, comments left out, of which `crc` is the CRC-32."""

    body_bytes: int
    sent: int
    crc: int

    @property
    def header(self) -> str:
        return f"{self.body_bytes} {self.sent} {self.crc}"

    @classmethod
    def read(cls, header: str) -> Resumption:
        """Raises InvalidInput."""
        numbers = header.split(" ")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InvalidInput(f"{RESUME} must be three numbers")
        return cls(*map(int, numbers))


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of an answer. `prompt`: the CRC-32 of its tokens, None where no token was asked for yet."""

    prompt: int | None = None
    batches: Sequence[Batch] = ()
    times_s: Sequence[int] = ()


def prompt_crc(ids: Iterable[int]) -> int:
    return zlib.crc32(array("q", ids).tobytes())


def line(said: bytes) -> bytes:
    return b"%b%b\n" % (MARK, said)


def prompt_line(crc: int) -> bytes:
    return line(b"%b%d" % (_PROMPT, crc))


class TokenCounts(NamedTuple):
    prompt: int
    output: int
    cached: int


def tokens_line(counts: TokenCounts, batches: Sequence[bytes]) -> bytes:
    """`batches`: each as `batch_json` wrote it."""
    return line(b"%b%d %d %d [%b]" % (_TOKENS, *counts, b",".join(batches)))


def time_line(unix_s: int) -> bytes:
    return line(b"%b%d" % (_TIME, unix_s))


def lost_line(message: str) -> bytes:
    return line(_LOST + " ".join(message.split())[:_LONGEST_MESSAGE].encode())


def batch_json(batch: Batch) -> bytes:
    """As they are at this moment: whoever reads events may change them."""
    return b"[%b]" % b",".join([_event_json(event) for event in batch])


def _event_json(event: TokenEvent) -> bytes:
    ids = event.output_ids
    if len(ids) == 1 and not (
        event.index or event.finish_reason or event.logprobs is not None or event.prompt_tokens is not None
    ):
        return b'{"output_ids":[%d]}' % ids[0]
    return _encode(msgspec.structs.replace(event, model_name="", model_version="", id=""))


def told_lines(piece: bytes) -> tuple[bytes, list[bytes]]:
    """A piece of an answer that begins with a line, without what is told in it; and that, without marks."""
    first, *marked = (b"\n" + piece).split(b"\n" + MARK)
    if not marked:
        return piece, marked
    # What is split at is the end of the line before, told or not.
    kept, said, last = [first, b"\n"], [], len(marked) - 1
    for place, each in enumerate(marked):
        told, ended, rest = each.partition(b"\n")
        said.append(told)
        kept.append(rest + b"\n" if ended and place != last else rest)
    return b"".join(kept)[1:], said


def tokens_so_far(told: bytes) -> TokenCounts | None:
    """Where this line tells them."""
    if not told.startswith(_TOKENS):
        return None
    _, prompt, output, cached, _ = told.split(b" ", 4)
    return TokenCounts(int(prompt), int(output), int(cached))


def loss_in(told: bytes) -> str | None:
    return told[len(_LOST) :].decode("utf-8", "replace") if told.startswith(_LOST) else None


def read_told(record: bytes) -> Told:
    """Of lines without marks. Raises InvalidInput."""
    prompt: int | None = None
    batches: list[Batch] = []
    times_s: list[int] = []
    try:
        for told in record.splitlines():
            if told.startswith(_PROMPT):
                prompt = int(told[len(_PROMPT) :])
            elif told.startswith(_TOKENS):
                batches += _batches.decode(told.split(b" ", 4)[4])
            elif told.startswith(_TIME):
                times_s.append(int(told[len(_TIME) :]))
            elif told == SEVERAL:
                raise InvalidInput("an answer of several generations cannot go on elsewhere")
    except (ValueError, IndexError, msgspec.MsgspecError) as error:
        raise InvalidInput(f"what was told of the answer cannot be read: {error}") from error
    return Told(prompt, batches, times_s)
