"""A spliced HTTP/2 connection without sockets: gRPC passes unread, REST is told where it is spoken."""

from __future__ import annotations

import asyncio
import json

import pytest
from hpack import Decoder, Encoder
from memory_transport import MemoryTransport, connect

from pilotlight_wire.grpc_splice import MAX_OPENING_BYTES, GrpcSplice
from pilotlight_wire.h2_frames import (
    EMPTY_SETTINGS,
    MAX_CONTROL_FRAMES_AT_ONCE,
    PREFACE,
    Flag,
    Frame,
    FrameReader,
    FrameType,
    make_frame,
)
from pilotlight_wire.http2_requests import is_grpc

pytestmark = pytest.mark.looptime


def head(content_type: str, stream_id: int = 1) -> bytes:
    fields = [(":method", "POST"), (":path", "/x"), (":authority", "demo"), ("content-type", content_type)]
    return make_frame(FrameType.HEADERS, Flag.END_HEADERS, stream_id, Encoder().encode(fields))


class Ends:
    """Both ends of one splice. `joined`: set when the gRPC server takes the connection."""

    def __init__(self) -> None:
        self.joined = asyncio.Event()
        self.server: MemoryTransport | None = None
        self.closed = 0
        self.splice = GrpcSplice(self._connect, 125, self._on_closed)
        self.client = connect(self.splice)

    async def _connect(self, protocol: asyncio.Protocol) -> None:
        await self.joined.wait()
        self.server = connect(protocol)

    def _on_closed(self) -> None:
        self.closed += 1

    @property
    def passed(self) -> bytes:
        assert self.server is not None
        return self.server.written

    def told(self) -> list[Frame]:
        return FrameReader().feed(self.client.written)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def joined_ends() -> Ends:
    ends = Ends()
    ends.joined.set()
    await settle()
    return ends


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_grpc_passes_unchanged_both_ways_however_it_is_cut(size: int) -> None:
    ends = await joined_ends()
    sent = PREFACE + EMPTY_SETTINGS + head("application/grpc+proto") + make_frame(FrameType.DATA, 0, 1, b"abc")
    for at in range(0, len(sent), size):
        ends.splice.data_received(sent[at : at + size])
    assert ends.passed == sent
    assert ends.server is not None
    ends.server.protocol.data_received(b"answer")
    assert ends.client.written == b"answer"
    await asyncio.sleep(200)
    assert not ends.client.closed


async def test_what_comes_before_the_server_is_there_is_kept() -> None:
    ends = Ends()
    sent = PREFACE + EMPTY_SETTINGS + head("application/grpc")
    ends.splice.data_received(sent)
    assert ends.client.paused
    ends.joined.set()
    await settle()
    assert ends.passed == sent
    assert not ends.client.paused


async def test_settings_pass_before_the_first_request() -> None:
    ends = await joined_ends()
    ends.splice.data_received(PREFACE + EMPTY_SETTINGS)
    assert ends.passed == PREFACE + EMPTY_SETTINGS


async def test_rest_gets_an_http_answer_with_a_body() -> None:
    ends = await joined_ends()
    ends.splice.data_received(PREFACE + EMPTY_SETTINGS + head("application/json"))
    await settle()
    settings, answer, body, goaway = ends.told()
    assert settings.raw == EMPTY_SETTINGS
    fields = dict(Decoder().decode(answer.header_block))
    assert fields[":status"] == "505"
    assert fields["content-length"] == str(len(body.payload))
    assert "HTTP/1.1" in json.loads(body.payload)["error"]
    assert body.flags & Flag.END_STREAM
    assert goaway.kind == FrameType.GOAWAY
    assert (ends.client.closed, ends.closed) == (True, 1)
    assert b"/x" not in ends.passed


async def test_settings_of_the_server_are_not_sent_twice() -> None:
    ends = await joined_ends()
    assert ends.server is not None
    ends.server.protocol.data_received(EMPTY_SETTINGS)
    ends.splice.data_received(PREFACE + EMPTY_SETTINGS + head("text/plain"))
    assert [frame.kind for frame in ends.told()].count(FrameType.SETTINGS) == 1


async def test_a_connection_without_a_request_ends() -> None:
    ends = await joined_ends()
    ends.splice.data_received(PREFACE + EMPTY_SETTINGS)
    await asyncio.sleep(124)
    assert not ends.client.closed
    await asyncio.sleep(2)
    assert (ends.client.closed, ends.closed) == (True, 1)


@pytest.mark.parametrize(
    "sent",
    [
        make_frame(FrameType.HEADERS, Flag.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        make_frame(FrameType.SETTINGS, 0, 0, b"x" * MAX_OPENING_BYTES),
        make_frame(FrameType.HEADERS, 0, 1, b"x" * 40_000) + make_frame(FrameType.CONTINUATION, 0, 1, b"x" * 40_000),
    ],
    ids=["no HPACK", "too much", "endless head"],
)
async def test_what_is_no_request_ends_the_connection(sent: bytes) -> None:
    ends = await joined_ends()
    ends.splice.data_received(PREFACE + sent)
    await settle()
    assert ends.client.closed


@pytest.mark.parametrize("side", ["client", "server"])
async def test_each_side_is_paused_while_the_other_is_full_and_ends_with_it(side: str) -> None:
    ends = await joined_ends()
    ends.splice.data_received(PREFACE + head("application/grpc"))
    assert ends.server is not None
    full, other = (ends.client, ends.server) if side == "client" else (ends.server, ends.client)
    full.protocol.pause_writing()
    assert other.paused
    full.protocol.resume_writing()
    assert not other.paused
    full.close()
    await settle()
    assert other.closed


async def test_a_server_that_cannot_be_reached_ends_the_connection() -> None:
    async def refused(protocol: asyncio.Protocol) -> None:
        raise ConnectionRefusedError

    ended: list[None] = []
    transport = connect(GrpcSplice(refused, 125, lambda: ended.append(None)))
    await settle()
    assert (transport.aborted, len(ended)) == (True, 1)


@pytest.mark.parametrize(
    ("content_type", "grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("Application/gRPC; x=y", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_content_type_decides(content_type: str, grpc: bool) -> None:
    assert is_grpc({"content-type": content_type}) is grpc


@pytest.mark.parametrize("kind", [FrameType.PING, FrameType.SETTINGS, 0x2, 0xFA])
async def test_a_flood_of_frames_that_belong_to_no_stream_ends_the_connection(kind: FrameType) -> None:
    ends = Ends()
    ends.joined.set()
    await settle()
    frame = make_frame(kind, 0, 0, b"")
    ends.splice.data_received(PREFACE + frame * MAX_CONTROL_FRAMES_AT_ONCE)
    await settle()
    assert not ends.client.closed
    ends.splice.data_received(frame * (MAX_CONTROL_FRAMES_AT_ONCE + 1))
    await settle()
    assert (ends.client.closed, ends.closed) == (True, 1)
