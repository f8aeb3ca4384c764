"""One HTTP/1.1 connection without a socket, in virtual time: bounds, request targets, and what a lost client means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from memory_transport import MemoryTransport, connect

from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_edge import HttpEdge
from pilotlight_wire.http_protocol import DISCONNECT, MAX_PIPELINED

pytestmark = pytest.mark.looptime

BOUNDS = EdgeBounds(max_header_bytes=1024, header_timeout_s=10, write_stall_timeout_s=60, keep_alive_s=125)


class Recorder:
    """Answers every request with its method, path and host; `slow` waits until it is cancelled."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closed = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.seen.append(f"{scope['method']} {scope['raw_path'].decode()} {headers.get(b'host', b'').decode()}")
        if scope["path"] == "/slow":
            gone = asyncio.Event()
            scope[DISCONNECT] = gone.set
            await gone.wait()
            self.seen.append("gone")
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def on_closed(self) -> None:
        self.closed += 1


def connection() -> tuple[Recorder, MemoryTransport]:
    app = Recorder()
    return app, connect(HttpEdge(BOUNDS).http(app)(app.on_closed))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/v2?a=1", "GET /v2 told"),
        ("http://demo.default.localhost:8080/v2", "GET /v2 demo.default.localhost:8080"),
        ("HTTP://demo.default.localhost", "GET / demo.default.localhost"),
        ("http://user:secret@demo/v2?x=/y", "GET /v2 demo"),
        ("http://demo?x", "GET / demo"),
    ],
)
async def test_request_targets(target: str, seen: str) -> None:
    app, transport = connection()
    transport.protocol.data_received(f"GET {target} HTTP/1.1\r\nHost: told\r\n\r\n".encode())
    await settle()
    assert app.seen == [seen]
    assert transport.written.startswith(b"HTTP/1.1 200 ")


async def test_options_of_the_server_as_a_whole() -> None:
    app, transport = connection()
    transport.protocol.data_received(b"OPTIONS * HTTP/1.1\r\nHost: told\r\n\r\n")
    await settle()
    assert app.seen == ["OPTIONS * told"]
    assert not transport.closed


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", b"405"),
        (b"GET gopher://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"501",
        ),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 2000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_cannot_be_served_is_told_as_json_and_the_connection_ends(
    request_bytes: bytes, status: bytes
) -> None:
    app, transport = connection()
    transport.protocol.data_received(request_bytes)
    await settle()
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert b"content-type: application/json" in head
    assert body.startswith(b'{"error":')
    assert (transport.closed, app.seen, app.closed) == (True, [], 1)


async def test_http_1_0_needs_no_host() -> None:
    app, transport = connection()
    transport.protocol.data_received(b"GET / HTTP/1.0\r\n\r\n")
    await settle()
    assert app.seen == ["GET / "]


@pytest.mark.parametrize(
    "garbage",
    [b"NONSENSE\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /b HTTP/1.1\r\nHost: x\r\n" + b"A" * 2000]
    + [b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"],
)
@pytest.mark.parametrize("good", [1, 3])
async def test_whole_requests_before_one_at_fault_are_answered(good: int, garbage: bytes) -> None:
    app, transport = connection()
    transport.protocol.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * good + garbage)
    transport.protocol.data_received(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(good):
        await settle()
    assert app.seen == ["GET /a x"] * good
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert transport.written.count(b"date: ") == good
    assert transport.written.endswith(b'"}')
    assert transport.closed


async def test_a_client_that_shuts_its_writing_side_has_left() -> None:
    _, transport = connection()
    transport.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    assert not transport.protocol.eof_received(), "what asyncio closes the transport for"


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"2\r\n{}\r\n0\r\nA: ", b"b" * 100),
        (b"2\r\n{}\r\n0\r\n", b"A: b\r\n" * 20),
        (b"2;", b"a" * 100),
    ],
    ids=["a trailer", "trailers", "a chunk extension"],
)
async def test_what_no_one_reads_of_a_body_is_bounded(start: bytes, piece: bytes) -> None:
    app, transport = connection()
    transport.protocol.data_received(CHUNKED + start)
    sent = 0
    while not transport.closed and sent < 100_000:
        transport.protocol.data_received(piece)
        sent += len(piece)
    assert sent < 2 * BOUNDS.max_header_bytes
    assert b"HTTP/1.1 431 " in transport.written
    await settle()
    assert app.closed == 1


async def test_requests_that_wait_for_their_turn_are_bounded() -> None:
    app, transport = connection()
    transport.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * (MAX_PIPELINED + 1))
    await settle()
    assert not transport.closed
    transport.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    await settle()
    assert (transport.closed, len(app.seen)) == (True, 2), "the first, and that its client has gone"
    assert transport.written.count(b"HTTP/1.1 400 ") == 1
    assert b"at most 64 requests" in transport.written


async def test_a_body_in_many_chunks_is_as_long_as_it_is() -> None:
    app, transport = connection()
    transport.protocol.data_received(CHUNKED)
    for _ in range(1000):
        transport.protocol.data_received(b"3\r\nabc\r\n")
    transport.protocol.data_received(b"0\r\nHost: trailer\r\n\r\n" + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    assert app.seen == ["POST / x", "GET /next x"]
    assert not transport.closed


async def test_an_upgrade_is_ignored_and_the_body_of_its_request_read() -> None:
    bodies: list[bytes] = []

    async def reader(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    transport = connect(HttpEdge(BOUNDS).http(reader)(lambda: None))
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nuPgrade: h2c\r\nContent-Length: 2\r\n\r\n"
    for body in (b"{}", b"[]"):
        transport.protocol.data_received(head)
        transport.protocol.data_received(body)
        await settle()
    assert bodies == [b"{}", b"[]"]
    transport.protocol.data_received(head.replace(b"uPgrade", b"Upgra"))
    transport.protocol.data_received(b"{}" + head + b"{}")
    await settle()
    assert b"HTTP/1.1 400 " in transport.written
    assert transport.closed


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silence", "half a head"])
async def test_a_head_has_a_deadline(first: bytes) -> None:
    app, transport = connection()
    if first:
        transport.protocol.data_received(first)
    await asyncio.sleep(9)
    assert not transport.closed
    await asyncio.sleep(2)
    assert transport.closed
    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert app.closed == 1


async def test_each_head_of_a_connection_has_its_own_deadline_and_idleness_an_end() -> None:
    app, transport = connection()
    for _ in range(3):
        await asyncio.sleep(5)
        transport.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(124)
    assert not transport.closed
    await asyncio.sleep(2)
    assert transport.closed
    assert len(app.seen) == 3


async def test_a_client_that_leaves_its_answer_unread_is_dropped() -> None:
    _, transport = connection()
    protocol = transport.protocol
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    protocol.pause_writing()
    await asyncio.sleep(50)
    protocol.resume_writing()
    await asyncio.sleep(12)
    assert not transport.closed
    protocol.pause_writing()
    await asyncio.sleep(61)
    assert transport.aborted


async def test_a_lost_connection_is_told_to_the_running_request() -> None:
    app, transport = connection()
    transport.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    transport.protocol.connection_lost(None)
    await settle()
    assert app.seen == ["GET /slow x", "gone"]


async def test_ending_cancels_what_runs_and_closes_what_is_idle() -> None:
    app = Recorder()
    edge = HttpEdge(BOUNDS)
    idle, busy = connect(edge.http(app)(app.on_closed)), connect(edge.http(app)(app.on_closed))
    idle.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    busy.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    edge.close_after_answers()
    await edge.end(1.0)
    assert idle.closed
    edge.abort()
    assert busy.closed
