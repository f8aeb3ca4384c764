"""The heads of HTTP/2 requests, as far as an edge that passes connections on has to read them. No I/O.

Content-Type `application/grpc` decides what is gRPC; anything else is REST, which is spoken over HTTP/1.1 here, and is
told so over HTTP/2.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.h2_frames import Flag, Frame, FrameType, goaway, literal_header, make_frame

_REST_MESSAGE = (
    "REST is spoken over HTTP/1.1 here, and HTTP/2 is for gRPC (content-type application/grpc); "
    "send the request over HTTP/1.1"
)
MAX_HEADER_BYTES = 64 * 1024


class FirstRequest:
    """Collects the header block of a connection's first request from its frames."""

    def __init__(self) -> None:
        self._block = b""

    def take(self, frame: Frame) -> Mapping[str, str] | None:
        """The request's header fields once `frame` completes them, else None. Raises InvalidInput."""
        if frame.kind not in (FrameType.HEADERS, FrameType.CONTINUATION):
            return None
        self._block += frame.header_block
        if len(self._block) > MAX_HEADER_BYTES:
            raise InvalidInput(f"the request's headers are larger than {MAX_HEADER_BYTES} bytes")
        return read_header_block(self._block) if frame.flags & Flag.END_HEADERS else None


def read_header_block(block: bytes) -> Mapping[str, str]:
    """The fields of a connection's first header block, pseudo-headers too. Raises InvalidInput."""
    # Imported late: its tables cost memory that a server without HTTP/2 need not pay.
    from hpack import Decoder, HPACKError

    try:
        return {str(name): str(value) for name, value in Decoder().decode(block)}
    except HPACKError as error:
        raise InvalidInput("the headers of the first request cannot be read") from error


def is_grpc(fields: Mapping[str, str]) -> bool:
    """Whether a request is a gRPC call (gRPC over HTTP/2, "Content-Type")."""
    media_type = fields.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/grpc" or media_type.startswith("application/grpc+")


def rest_refusal(stream_id: int) -> bytes:
    """The answer to a REST request, after which the client opens another connection."""
    body = msgspec.json.encode({"error": _REST_MESSAGE})
    block = (
        b"\x08\x03505"  # :status, a literal whose name is the static table's eighth (RFC 7541 appendix A)
        + literal_header("content-type", "application/json")
        + literal_header("content-length", str(len(body)))
    )
    return (
        make_frame(FrameType.HEADERS, Flag.END_HEADERS, stream_id, block)
        + make_frame(FrameType.DATA, Flag.END_STREAM, stream_id, body)
        + goaway(stream_id)
    )
