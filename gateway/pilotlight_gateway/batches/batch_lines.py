"""The lines of a batch: what its input asks for, what is written of each, and which ones were written already. Pure.

A line that is wrong does not fail its batch: it is told in the error file, as OpenAI tells what a request failed with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from pilotlight_gateway.jobs.job_records import json_or_text

_LONGEST_ID_CHARS = 512


class _Line(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Streams(msgspec.Struct):
    stream: bool | None = None


class _Written(msgspec.Struct):
    id: str


_lines = msgspec.json.Decoder(_Line)
_streams = msgspec.json.Decoder(_Streams)
_written = msgspec.json.Decoder(_Written)


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request. `number`: of its line, from 1."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    number: int
    custom_id: str | None
    code: str
    message: str


class LineReader:
    """Reads the lines of one input in their order, so that a custom id counts where it stands first."""

    def __init__(self, endpoint: str, line_bytes: int) -> None:
        self._endpoint = endpoint
        self._line_bytes = line_bytes
        self._seen: set[bytes] = set()

    def read(self, number: int, line: bytes) -> BatchLine | BadLine:
        if len(line) > self._line_bytes:
            return BadLine(number, None, "line_too_long", f"the line is longer than {self._line_bytes} bytes")
        try:
            asked = _lines.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return BadLine(number, None, "invalid_json_line", f"the line is no request of a batch: {error}")
        custom_id = asked.custom_id
        if not custom_id or len(custom_id) > _LONGEST_ID_CHARS:
            message = f"custom_id must be text of 1 to {_LONGEST_ID_CHARS} characters"
            return BadLine(number, None, "invalid_custom_id", message)
        mark = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if mark in self._seen:
            return BadLine(number, custom_id, "duplicate_custom_id", "an earlier line has this custom_id")
        self._seen.add(mark)
        if asked.method != "POST":
            return BadLine(number, custom_id, "invalid_method", "method must be POST")
        if asked.url != self._endpoint:
            return BadLine(number, custom_id, "invalid_url", f"url must be the batch's endpoint, {self._endpoint}")
        body = bytes(asked.body)
        try:
            if _streams.decode(body).stream:
                return BadLine(number, custom_id, "stream_not_supported", "a batch's requests are answered whole")
        except (msgspec.MsgspecError, RecursionError):
            return BadLine(number, custom_id, "invalid_request", "body must be an object, and its stream true or false")
        return BatchLine(number, custom_id, body)


def line_id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


def answered_line(batch_id: str, line: BatchLine, status: int, request_id: str, body: bytes) -> bytes:
    response: dict[str, Any] = {"status_code": status, "request_id": request_id, "body": json_or_text(body)}
    return _line(
        {"id": line_id(batch_id, line.number), "custom_id": line.custom_id, "response": response, "error": None}
    )


def bad_line(batch_id: str, bad: BadLine) -> bytes:
    error = {"code": bad.code, "message": bad.message, "line": bad.number}
    return _line({"id": line_id(batch_id, bad.number), "custom_id": bad.custom_id, "response": None, "error": error})


def numbers_written(batch_id: str, lines: Iterable[bytes]) -> set[int]:
    """Of the lines that an earlier process wrote whole."""
    prefix, numbers = line_id(batch_id, 0)[:-1], set()
    for line in lines:
        try:
            found = _written.decode(line).id
        except (msgspec.MsgspecError, RecursionError):
            continue
        number = found.removeprefix(prefix)
        if found.startswith(prefix) and number.isdigit():
            numbers.add(int(number))
    return numbers


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
