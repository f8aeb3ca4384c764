"""One answer of a connection: how it is framed, what ends it; the pieces that requests come in make no difference."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from memory_transport import MemoryTransport, connect

from pilotlight_wire.bodies_held import BodiesHeld, HeldBytes
from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_edge import HttpEdge
from pilotlight_wire.http_exchange import HttpAnswer
from pilotlight_wire.http_protocol import CYCLE, DISCONNECT

pytestmark = pytest.mark.looptime

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def connection(app: App) -> MemoryTransport:
    return connect(HttpEdge(EdgeBounds()).http(app)(lambda: None))


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def answering(*pieces: bytes, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> App:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def asked(app: App, request: bytes) -> tuple[bytes, MemoryTransport]:
    """The answer without its date."""
    transport = connection(app)
    transport.protocol.data_received(request)
    await settle()
    lines = transport.written.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(b"date: ")), transport


@pytest.mark.parametrize(
    ("request_line", "app", "answer", "closes"),
    [
        (
            b"GET / HTTP/1.1",
            answering(b"ab", b"", b"c"),
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            False,
        ),
        (
            b"GET / HTTP/1.1",
            answering(b"ab", b"c", headers=((b"Content-Length", b"3"),)),
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            False,
        ),
        (b"HEAD / HTTP/1.1", answering(b"abc"), b"HTTP/1.1 200 OK\r\n\r\n", False),
        (
            b"HEAD / HTTP/1.1",
            answering(headers=((b"content-length", b"3"),)),
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n",
            False,
        ),
        (
            b"GET / HTTP/1.1",
            answering(status=304, headers=((b"content-length", b"3"),)),
            b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n",
            False,
        ),
        (b"GET / HTTP/1.1", answering(status=204), b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"GET / HTTP/1.0", answering(b"abc"), b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc", True),
        (
            b"GET / HTTP/1.1",
            answering(headers=((b"connection", b"close"), (b"content-length", b"0"))),
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            True,
        ),
    ],
    ids=["chunks", "a length", "head", "head's length", "not modified", "no content", "HTTP/1.0", "closing"],
)
async def test_framing(request_line: bytes, app: App, answer: bytes, closes: bool) -> None:
    found, transport = await asked(app, request_line + b"\r\nHost: x\r\n\r\n")
    assert (found, transport.closed) == (answer, closes)


async def failing(scope: dict[str, Any], receive: Any, send: Any) -> None:
    raise ValueError("a bug")


@pytest.mark.parametrize(
    ("app", "begins"),
    [
        (failing, b"HTTP/1.1 500 Internal Server Error\r\n"),
        (answering(headers=((b"x", b"a\r\nset-cookie: b"),)), b"HTTP/1.1 500 Internal Server Error\r\n"),
        (answering(headers=((b"x", b"a\x00"),)), b"HTTP/1.1 500 Internal Server Error\r\n"),
        (answering(b"ab", headers=((b"content-length", b"3"),)), b"HTTP/1.1 200 "),
        (answering(b"abcd", headers=((b"content-length", b"3"),)), b"HTTP/1.1 200 "),
    ],
    ids=["raises", "a header with a line in it", "a header with a zero in it", "too short", "too long"],
)
async def test_an_app_that_fails_is_no_answer_that_looks_whole(app: App, begins: bytes) -> None:
    found, transport = await asked(app, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert found.startswith(begins)
    assert b"set-cookie" not in found
    assert b"abcd" not in found
    assert transport.closed


async def test_a_client_that_waits_to_be_asked_for_its_body_is() -> None:
    bodies: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await answering()(scope, receive, send)

    transport = connection(app)
    transport.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    await settle()
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    transport.protocol.data_received(b"ab")
    await settle()
    assert bodies == [b"ab"]


async def test_a_body_that_nobody_reads_stops_its_client() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(10)
        read = 0
        while read < 200_000:
            read += len((await receive())["body"])
        await answering(b"%d" % read)(scope, receive, send)

    transport = connection(app)
    transport.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
    await settle()
    assert transport.paused
    await asyncio.sleep(11)
    assert not transport.paused
    transport.protocol.data_received(b"x" * 100_000)
    await settle()
    assert b"200000" in transport.written


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000])
async def test_a_client_that_leaves_while_its_answer_is_made_is_seen_whatever_its_body(size: int) -> None:
    seen: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        answer = HttpAnswer(scope, receive, send, EdgeBounds().cors, "/")
        seen.append(str(len(await answer.body(EdgeBounds(max_body_bytes=2_000_000), HeldBytes(BodiesHeld(2_000_000))))))
        scope[DISCONNECT] = lambda: seen.append("gone")
        await asyncio.sleep(100)

    transport = connection(app)
    transport.protocol.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    await settle()
    assert not transport.paused
    transport.protocol.connection_lost(None)
    assert seen == [str(size), "gone"]


async def test_a_client_that_reads_too_slowly_is_waited_for() -> None:
    transport = connection(answering(b"ab", b"c"))
    transport.protocol.pause_writing()
    transport.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    assert transport.written == b""
    transport.protocol.resume_writing()
    await settle()
    assert transport.written.endswith(b"0\r\n\r\n")


async def test_nonsense_behind_a_request_does_not_get_into_its_answer() -> None:
    go_on = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    transport = connection(app)
    transport.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await settle()
    transport.protocol.data_received(b"NONSENSE\r\n\r\n")
    await settle()
    assert not transport.closed
    assert b"400" not in transport.written
    go_on.set()
    await settle()
    assert b"\r\n\r\nokHTTP/1.1 400 " in transport.written
    assert transport.closed


def _some_requests(chance: random.Random) -> tuple[bytes, list[bytes]]:
    """Requests, one behind the other, and what an app sees of each."""
    sent, seen = b"", []
    for number in range(chance.randrange(1, 6)):
        body = bytes(chance.randrange(256) for _ in range(chance.choice((0, 1, 7, 300))))
        if chance.random() < 0.5:
            sent += b"POST /%d?q HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (number, len(body), body)
        else:
            cut = chance.randrange(len(body) + 1)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
            sent += b"POST /%d?q HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (
                number,
                chunks,
            )
        seen.append(b"/%d q %b" % (number, body))
    return sent, seen


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("at_hand", [False, True])
async def test_the_pieces_that_requests_come_in_make_no_difference(seed: int, at_hand: bool) -> None:
    chance, seen = random.Random(seed), list[bytes]()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        answer = HttpAnswer(scope if at_hand else {**scope, CYCLE: None}, receive, send, EdgeBounds().cors, "/")
        body = await answer.body(EdgeBounds(max_body_bytes=1000), HeldBytes(BodiesHeld(1000)))
        if chance.random() < 0.3:
            await asyncio.sleep(1)
        seen.append(scope["raw_path"] + b" " + scope["query_string"] + b" " + body)
        await answering(b"answer to " + scope["raw_path"])(scope, receive, send)

    sent, expected = _some_requests(chance)
    transport = connection(app)
    while sent:
        cut = chance.choice((1, 3, 50, 1000))
        transport.protocol.data_received(sent[:cut])
        sent = sent[cut:]
        if chance.random() < 0.2:
            await settle()
    await asyncio.sleep(10)
    assert seen == expected
    places = [transport.written.find(b"answer to /%d" % number) for number in range(len(expected))]
    assert places == sorted(places)
    assert -1 not in places


async def test_a_head_goes_out_with_its_first_piece_and_waits_for_none() -> None:
    headed, may_answer = asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
            headed.set()
            await may_answer.wait()
            await send({"type": "http.response.body", "body": b"abc", "more_body": False})
        else:
            await answering(b"abc", headers=((b"content-length", b"3"),))(scope, receive, send)

    transport = connection(app)
    transport.protocol.data_received(b"GET /at-once HTTP/1.1\r\nhost: x\r\n\r\n")
    await settle()
    assert transport.writes == 1
    assert transport.written.endswith(b"\r\n\r\nabc")
    transport.protocol.data_received(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
    await headed.wait()
    await settle()
    assert transport.written.endswith(b"content-length: 3\r\n\r\n")
    may_answer.set()
    await settle()
    assert transport.written.endswith(b"\r\n\r\nabc")
    assert not transport.closed
