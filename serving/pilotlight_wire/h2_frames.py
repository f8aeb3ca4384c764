"""HTTP/2 framing as far as a connection proxy needs it: cut a stream into frames, count streams, make a few frames.

Pure: bytes in, values out. Must not: open sockets, keep HPACK state beyond the first request, or enforce the
protocol; the two ends do that. Source: RFC 9113 sections 4 and 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9


class FrameType(IntEnum):
    """The frame types that mean something to the proxy."""

    DATA = 0x0
    HEADERS = 0x1
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PING = 0x6
    GOAWAY = 0x7
    CONTINUATION = 0x9


_OF_STREAMS = frozenset({0x0, 0x1, 0x3, 0x8, 0x9})
MAX_CONTROL_FRAMES_AT_ONCE = 1000


class Flag(IntFlag):
    """Frame flags; ACK shares its bit with END_STREAM."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame; `raw` holds header and payload."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes

    @property
    def payload(self) -> bytes:
        return self.raw[HEADER_BYTES:]

    @property
    def header_block(self) -> bytes:
        """The HPACK fragment of a HEADERS or CONTINUATION frame, padding and priority removed."""
        block = self.payload
        if self.kind == FrameType.HEADERS:
            padding = 0
            if self.flags & Flag.PADDED and block:
                padding, block = block[0], block[1:]
            if self.flags & Flag.PRIORITY:
                block = block[5:]
            if padding:
                block = block[:-padding]
        return block


class FrameReader:
    """Cuts a byte stream into frames; keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def has_part(self) -> bool:
        """Whether a frame has begun that is not whole."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            head = self._buffer[start : start + HEADER_BYTES]
            end = start + HEADER_BYTES + int.from_bytes(head[:3], "big")
            if len(self._buffer) < end:
                break
            stream_id = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
            frames.append(Frame(head[3], head[4], stream_id, bytes(self._buffer[start:end])))
            start = end
        del self._buffer[:start]
        return frames


def is_flood(frames: Iterable[Frame]) -> bool:
    """Whether so many frames of no stream came at once that whoever sent them wants to keep this process busy."""
    return sum(frame.kind not in _OF_STREAMS for frame in frames) > MAX_CONTROL_FRAMES_AT_ONCE


def make_frame(kind: FrameType, flags: int, stream_id: int, payload: bytes) -> bytes:
    """A frame's bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


EMPTY_SETTINGS = make_frame(FrameType.SETTINGS, 0, 0, b"")


def goaway(last_stream_id: int, code: int = 0) -> bytes:
    """No stream after this one is taken; the client opens another connection for the next."""
    return make_frame(FrameType.GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big"))


# The largest stream id: every stream the client has opened goes on, new ones need another connection.
GRACEFUL_GOAWAY = goaway(0x7FFFFFFF)
FLOOD_GOAWAY = goaway(0, 0xB)
"""ENHANCE_YOUR_CALM (RFC 9113 section 7)."""


NO_ERROR = 0x0
CANCEL = 0x8
"""Error code of a stream that is no longer wanted (RFC 9113 section 7)."""


def reset_stream(stream_id: int, code: int) -> bytes:
    """Ends one stream at once."""
    return make_frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def ping_answer(ping: Frame) -> bytes:
    """The acknowledgement of a PING."""
    return make_frame(FrameType.PING, Flag.ACK, 0, ping.payload)


@dataclass
class StreamLedger:
    """Which streams are open, seen from both directions of a connection.

    A stream counts from its first HEADERS of the client until the server ends it or either side resets it: that is
    how long the pod works on it.
    """

    open_streams: set[int] = field(default_factory=set)
    _last_opened: int = 0

    def from_client(self, frame: Frame) -> int:
        """Change in the number of open streams: 1, 0 or -1."""
        if frame.kind == FrameType.HEADERS and frame.stream_id > self._last_opened:
            self._last_opened = frame.stream_id
            self.open_streams.add(frame.stream_id)
            return 1
        return self._close(frame) if frame.kind == FrameType.RST_STREAM else 0

    def from_server(self, frame: Frame) -> int:
        """Change in the number of open streams: 0 or -1."""
        ends = frame.kind in (FrameType.DATA, FrameType.HEADERS) and frame.flags & Flag.END_STREAM
        return self._close(frame) if ends or frame.kind == FrameType.RST_STREAM else 0

    def _close(self, frame: Frame) -> int:
        if frame.stream_id not in self.open_streams:
            return 0
        self.open_streams.remove(frame.stream_id)
        return -1


def literal_header(name: str, value: str) -> bytes:
    """HPACK: literal field without indexing, new name, no Huffman (RFC 7541 section 6.2.2)."""
    return b"\x00" + _literal(name.encode()) + _literal(value.encode())


def _literal(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    encoded, rest = b"\x7f", len(text) - 127
    while rest >= 128:
        encoded += bytes((rest % 128 + 128,))
        rest //= 128
    return encoded + bytes((rest,)) + text


def grpc_refusal(stream_id: int, code: int, message: str) -> bytes:
    """A gRPC trailers-only answer that ends the stream with a status (google.rpc.Code) and a message."""
    # :status 200 from the static table
    head = b"\x88" + literal_header("content-type", "application/grpc")
    return make_frame(
        FrameType.HEADERS, Flag.END_STREAM | Flag.END_HEADERS, stream_id, head + _grpc_status(code, message)
    )


def grpc_trailers(stream_id: int, code: int, message: str) -> bytes:
    """The same for a stream whose answer has begun."""
    return make_frame(FrameType.HEADERS, Flag.END_STREAM | Flag.END_HEADERS, stream_id, _grpc_status(code, message))


def _grpc_status(code: int, message: str) -> bytes:
    # grpc-message is percent-encoded (gRPC over HTTP/2, "Status-Message").
    text = "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in message.encode())
    return literal_header("grpc-status", str(code)) + literal_header("grpc-message", text)
