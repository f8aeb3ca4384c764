"""A client's HTTP/2 connection at the ingress, without sockets."""

from __future__ import annotations

import pytest
from endpoint_table import FakeRoute, FakeTable
from memory_transport import MemoryTransport, connect

from pilotlight_local.ingress.grpc_proxy import GrpcClientSide, find_by_host
from pilotlight_wire.h2_frames import (
    EMPTY_SETTINGS,
    FLOOD_GOAWAY,
    MAX_CONTROL_FRAMES_AT_ONCE,
    PREFACE,
    Flag,
    FrameType,
    make_frame,
)

pytestmark = pytest.mark.looptime


def connection() -> MemoryTransport:
    table = FakeTable(FakeRoute(queue_depth=0, timeout_s=60))
    return connect(GrpcClientSide(table, find_by_host(table), lambda: None))


async def test_a_flood_of_pings_ends_its_connection_and_is_not_answered() -> None:
    transport = connection()
    ping = make_frame(FrameType.PING, 0, 0, b"12345678")
    transport.protocol.data_received(PREFACE + ping)
    assert transport.written == EMPTY_SETTINGS + make_frame(FrameType.PING, Flag.ACK, 0, b"12345678")
    transport.protocol.data_received(ping * (MAX_CONTROL_FRAMES_AT_ONCE + 1))
    assert transport.closed
    assert transport.written.endswith(b"12345678" + FLOOD_GOAWAY)


async def test_a_head_that_is_padded_with_nothing_is_refused() -> None:
    transport = connection()
    transport.protocol.data_received(PREFACE + make_frame(FrameType.HEADERS, Flag.PADDED | Flag.END_HEADERS, 1, b""))
    assert transport.closed
