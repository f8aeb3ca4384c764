"""HTTP/2 frames: cutting, counting, making."""

import hpack
import pytest

from pilotlight_wire.h2_frames import (
    EMPTY_SETTINGS,
    Flag,
    Frame,
    FrameReader,
    FrameType,
    StreamLedger,
    grpc_refusal,
    make_frame,
)


def frame(kind: FrameType, flags: int, stream_id: int, payload: bytes = b"") -> Frame:
    return FrameReader().feed(make_frame(kind, flags, stream_id, payload))[0]


WIRE = (
    EMPTY_SETTINGS
    + make_frame(FrameType.DATA, Flag.END_STREAM, 5, b"x" * 70_000)
    + make_frame(FrameType.PING, 0, 0, b"8" * 8)
)


@pytest.mark.parametrize("step", [1, 7, 9, 10, 4096, 1 << 20])
def test_frames_are_cut_whatever_the_pieces(step: int) -> None:
    reader = FrameReader()
    frames = [found for start in range(0, len(WIRE), step) for found in reader.feed(WIRE[start : start + step])]
    assert [(found.kind, found.stream_id, len(found.payload)) for found in frames] == [
        (4, 0, 0),
        (0, 5, 70_000),
        (6, 0, 8),
    ]
    assert b"".join(found.raw for found in frames) == WIRE


@pytest.mark.parametrize(
    ("flags", "payload"),
    [
        (0, b"block"),
        (Flag.PADDED, b"\x03block\0\0\0"),
        (Flag.PRIORITY, b"\0\0\0\0\x10block"),
        (Flag.PADDED | Flag.PRIORITY, b"\x02\0\0\0\0\x10block\0\0"),
    ],
)
def test_header_block_without_padding_and_priority(flags: int, payload: bytes) -> None:
    assert frame(FrameType.HEADERS, flags, 1, payload).header_block == b"block"


def test_a_stream_counts_until_the_server_ends_it_or_either_side_resets_it() -> None:
    ledger = StreamLedger()
    opened = [ledger.from_client(frame(FrameType.HEADERS, Flag.END_HEADERS, stream_id)) for stream_id in (1, 3, 5)]
    assert opened == [1, 1, 1]
    # Trailers of the client open nothing, its END_STREAM ends nothing: the pod still works.
    assert ledger.from_client(frame(FrameType.HEADERS, Flag.END_STREAM, 1)) == 0
    assert ledger.from_client(frame(FrameType.DATA, Flag.END_STREAM, 3)) == 0
    assert ledger.from_server(frame(FrameType.HEADERS, Flag.END_HEADERS, 1)) == 0
    assert ledger.from_server(frame(FrameType.HEADERS, Flag.END_STREAM, 1)) == -1
    assert ledger.from_client(frame(FrameType.RST_STREAM, 0, 3, b"\0\0\0\x08")) == -1
    assert ledger.from_server(frame(FrameType.RST_STREAM, 0, 5, b"\0\0\0\x08")) == -1
    # Late ends of a stream that is over change nothing.
    assert ledger.from_server(frame(FrameType.DATA, Flag.END_STREAM, 3)) == 0
    assert ledger.open_streams == set()


def test_refusal_is_a_trailers_only_answer_that_any_decoder_reads() -> None:
    message = "no pod: 100% über\nlast line " + "x" * 300
    found = FrameReader().feed(grpc_refusal(7, 14, message))[0]
    assert (found.kind, found.stream_id) == (FrameType.HEADERS, 7)
    assert found.flags == Flag.END_STREAM | Flag.END_HEADERS
    headers = dict(hpack.Decoder().decode(found.header_block))
    assert headers[":status"] == "200"
    assert headers["grpc-status"] == "14"
    assert headers["grpc-message"] == "no pod: 100%25 %C3%BCber%0Alast line " + "x" * 300
