"""Frames on a byte stream: a 4-byte little-endian length, then one msgpack message. No I/O is done here."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

MAX_FRAME_BYTES = 64 * 2**20
_HEADER = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


def encode(frame: msgspec.Struct) -> bytearray:
    """The frame with its length in front, ready to be written."""
    buffer = bytearray(_HEADER.size)
    _encoder.encode_into(frame, buffer, _HEADER.size)
    _HEADER.pack_into(buffer, 0, len(buffer) - _HEADER.size)
    return buffer


class FrameSplitter:
    """Cuts a byte stream into message bodies. A body is valid until the next call; nothing is copied when a read holds
    whole frames.

    Raises ValueError on a frame longer than `limit_bytes`: the peer does not speak this protocol. The limit may be
    changed between two frames.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._rest = bytearray()
        self.limit_bytes = limit_bytes

    def feed(self, data: bytes) -> Iterator[memoryview]:
        if self._rest:
            self._rest += data
            data = bytes(self._rest)
        view = memoryview(data)
        start, end = 0, len(data)
        while end - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(view, start)
            if length > self.limit_bytes:
                raise ValueError(f"a frame of {length} bytes is over the limit of {self.limit_bytes}")
            body = start + _HEADER.size
            if end - body < length:
                break
            start = body + length
            yield view[body:start]
        self._rest = bytearray(view[start:])
