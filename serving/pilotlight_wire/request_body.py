"""Reads a request's body within a size limit, plain, gzip or deflate, and says when the client stalls.

Errors: PayloadTooLarge as soon as the limit is passed (declared, chunked or unpacked), InvalidInput for a broken
coding, UnsupportedMediaType for an unknown one, `BodyStalled` when the client stops sending, `BodyAborted` when it
left.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge, PilotlightError, UnsupportedMediaType

Receive = Callable[[], Awaitable[dict[str, Any]]]

# Unpacking more than this would hold the event loop for about a millisecond.
_UNPACK_IN_THREAD_BYTES = 128 * 1024


class BodyStalled(PilotlightError):
    http_status, grpc_code, openai_type = 408, 4, "timeout_error"


class BodyAborted(Exception):
    """The client closed the connection before its body was whole."""


async def read_body(receive: Receive, headers: Mapping[str, str], limit_bytes: int, stall_timeout_s: float) -> bytes:
    """The whole unpacked body, at most `limit_bytes` long; `stall_timeout_s` is the longest pause between pieces."""
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    message = await _next_piece(receive, stall_timeout_s)
    body: bytes = message.get("body", b"")
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    if message.get("more_body"):
        pieces = bytearray(body)
        while message.get("more_body"):
            message = await _next_piece(receive, stall_timeout_s)
            pieces += message.get("body", b"")
            if len(pieces) > limit_bytes:
                raise _too_large(limit_bytes)
        body = bytes(pieces)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("identity", ""):
        return body
    if coding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding '{coding}' is not spoken here; send gzip, deflate or none")
    if len(body) < _UNPACK_IN_THREAD_BYTES:
        return unpack(body, coding, limit_bytes)
    return await asyncio.to_thread(unpack, body, coding, limit_bytes)


async def body_pieces(receive: Receive, stall_timeout_s: float, chunked: bool) -> AsyncIterator[bytes]:
    """The body as it arrives, to be sent on; `chunked`: each piece framed as a chunk (RFC 9112 section 7.1)."""
    more = True
    while more:
        message = await _next_piece(receive, stall_timeout_s)
        piece, more = message.get("body", b""), message.get("more_body", False)
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"


async def _next_piece(receive: Receive, stall_timeout_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await receive()
    except TimeoutError:
        raise BodyStalled(f"no part of the body arrived for {stall_timeout_s:g} s; send the request again") from None
    if message["type"] == "http.disconnect":
        raise BodyAborted
    return message


def unpack(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """Undo `coding` (gzip, or deflate with or without its zlib header)."""
    window_bits = 31 if coding == "gzip" else 15
    if coding == "deflate" and (len(body) < 2 or body[0] & 0x0F != 8 or (body[0] << 8 | body[1]) % 31):
        window_bits = -15
    engine = zlib.decompressobj(window_bits)
    try:
        unpacked = engine.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {coding}: {error}") from None
    if len(unpacked) > limit_bytes:
        raise _too_large(limit_bytes)
    if not engine.eof or engine.unused_data:
        raise InvalidInput(f"the body is not valid {coding}: it is cut short or has trailing bytes")
    return unpacked


def pack(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """`body` in the first coding of gzip and deflate that the client takes, and its name; unchanged when none."""
    wanted = {}
    for item in accept_encoding.lower().split(","):
        name, _, quality = item.strip().partition(";")
        wanted[name.strip()] = quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    for coding, window_bits in (("gzip", 31), ("deflate", 15)):
        if wanted.get(coding):
            engine = zlib.compressobj(1, zlib.DEFLATED, window_bits)
            return engine.compress(body) + engine.flush(), coding
    return body, None


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes, the most this server takes")
