"""Reads a form with one file as it arrives: small fields into memory, the file piece by piece to whoever takes it.

The form itself is parsed by python-multipart, which reads as far as it is given and keeps nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge

LONGEST_FIELD_BYTES = 1024
LONGEST_PART_BYTES = 16 << 10
"""Of one that is no file, with its headers."""

MOST_PARTS = 16


class Written(Protocol):
    def write(self, piece: bytes, /) -> int: ...


@dataclass
class Upload:
    """`fields` by their names; `filename`: as the client calls its file, None where it sent none."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size_bytes: int = 0


class _Form:
    """What the parser calls. `pieces`: of the file, not yet written."""

    def __init__(self, room_bytes: int) -> None:
        self.upload = Upload()
        self.pieces: list[bytes] = []
        self.ended = False
        self._room_bytes = room_bytes
        self._parts = 0
        self._header = self._value = b""
        self._disposition = b""
        self._name: str | None = None
        self._is_file = False
        self._field = b""

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise PayloadTooLarge(f"the form has more than {MOST_PARTS} parts")
        self._header = self._value = self._disposition = self._field = b""
        self._name, self._is_file = None, False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.upload.filename is not None:
                raise InvalidInput("the form has two files; send one", param="file")
            self.upload.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.upload.size_bytes += end - start
            if self.upload.size_bytes > self._room_bytes:
                raise PayloadTooLarge(f"the file is larger than the {self._room_bytes} bytes that there is room for")
            self.pieces.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > LONGEST_FIELD_BYTES:
            raise PayloadTooLarge(f"a field of the form is longer than {LONGEST_FIELD_BYTES} bytes")

    def _part_end(self) -> None:
        if not self._is_file and self._name:
            self.upload.fields[self._name] = self._field.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


async def read_upload(pieces: AsyncIterator[bytes], content_type: str, file: Written, room_bytes: int) -> Upload:
    """Everything that the form says; its file is written to `file`. Raises InvalidInput, PayloadTooLarge."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise InvalidInput("send the file as multipart/form-data with a boundary", param="file")
    form = _Form(room_bytes)
    parser = MultipartParser(boundary, form.callbacks())
    left_bytes = room_bytes + MOST_PARTS * LONGEST_PART_BYTES
    try:
        async for piece in pieces:
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise PayloadTooLarge(f"the form is larger than the {room_bytes} bytes that there is room for")
            parser.write(piece)
            if form.pieces:
                written, form.pieces = b"".join(form.pieces), []
                await on_disk(file.write, written)
        parser.finalize()
    except FormParserError as error:
        raise InvalidInput(f"the form cannot be read: {error}", param="file") from error
    if not form.ended:
        raise InvalidInput("the form ends too early", param="file")
    if form.upload.filename is None:
        raise InvalidInput("the form has no 'file'", param="file")
    return form.upload
