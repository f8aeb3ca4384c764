"""Bodies: limits in every form, codings, and clients that stall or leave."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge, Unavailable, UnsupportedMediaType
from pilotlight_wire.bodies_held import BodiesHeld, HeldBytes
from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_exchange import BodyAborted, BodyStalled, pack, read_body, unpack

LIMIT = 100
BOUNDS = EdgeBounds(max_body_bytes=LIMIT, body_stall_timeout_s=20, body_timeout_s=60, min_body_bytes_s=1)


def pieces(*bodies: bytes, ends: bool = True) -> Callable[[], Awaitable[dict[str, Any]]]:
    messages = [
        {"type": "http.request", "body": body, "more_body": not ends or number < len(bodies) - 1}
        for number, body in enumerate(bodies)
    ]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return receive


async def read(receive: Callable[[], Awaitable[dict[str, Any]]], **headers: str) -> bytes:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await read_body(receive, given, BOUNDS, HeldBytes(BodiesHeld(10 * LIMIT)))


async def test_whole_and_in_pieces() -> None:
    assert await read(pieces(b"abc")) == b"abc"
    assert await read(pieces(b"ab", b"", b"c")) == b"abc"
    assert await read(pieces(b"x" * LIMIT)) == b"x" * LIMIT


@pytest.mark.parametrize(
    ("receive", "headers"),
    [
        (pieces(), {"content_length": "101"}),
        (pieces(b"x" * 101), {}),
        (pieces(b"x" * 60, b"x" * 60, ends=False), {}),
        (pieces(gzip.compress(b"x" * 101)), {"content_encoding": "gzip"}),
        (pieces(gzip.compress(b"\0" * 10_000)), {"content_encoding": "gzip"}),
    ],
    ids=["declared", "at once", "chunked, and it stops reading", "unpacked", "a bomb"],
)
async def test_too_large(receive: Callable[[], Awaitable[dict[str, Any]]], headers: dict[str, str]) -> None:
    with pytest.raises(PayloadTooLarge, match="100 bytes"):
        await read(receive, **headers)


async def test_codings() -> None:
    raw_deflate = zlib.compressobj(wbits=-15)
    for coding, packed in (
        ("gzip", gzip.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", raw_deflate.compress(b"hello") + raw_deflate.flush()),
        ("identity", b"hello"),
    ):
        assert await read(pieces(packed), content_encoding=coding) == b"hello", coding
    with pytest.raises(UnsupportedMediaType, match="'br'"):
        await read(pieces(b""), content_encoding="br")


@pytest.mark.parametrize("broken", [b"", b"hello", gzip.compress(b"hello")[:-5], gzip.compress(b"hello") + b"more"])
def test_broken_gzip(broken: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid gzip"):
        unpack(broken, "gzip", LIMIT)


@pytest.mark.looptime
async def test_a_client_that_stalls() -> None:
    with pytest.raises(BodyStalled):
        await read(pieces(b"ab", ends=False))


async def test_a_client_that_leaves() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(BodyAborted):
        await read(receive)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [("gzip", "gzip"), ("deflate, br", "deflate"), ("gzip;q=0, deflate", "deflate"), ("br", None), ("identity", None)],
)
def test_answers_are_packed_as_the_client_takes_them(accepted: str, coding: str | None) -> None:
    body, chosen = pack(b"hello" * 10, accepted)
    assert chosen == coding
    assert (unpack(body, coding, LIMIT) if coding else body) == b"hello" * 10


@pytest.mark.looptime
@pytest.mark.parametrize(("every_s", "size", "ended_s"), [(19, 1, 21), (5, 1, 24), (3, 4, 60), (0.1, 0, 20)])
async def test_a_body_that_trickles_in_has_an_end(every_s: float, size: int, ended_s: float) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(every_s)
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    started_s = asyncio.get_running_loop().time()
    with pytest.raises(BodyStalled):
        await read(receive)
    assert asyncio.get_running_loop().time() - started_s == pytest.approx(ended_s, abs=1)


async def test_what_all_bodies_have_is_bounded() -> None:
    held = BodiesHeld(250)
    requests = [HeldBytes(held) for _ in range(4)]
    for request in requests[:2]:
        await read_body(pieces(b"x" * 60, b"x" * 40), {}, BOUNDS, request)
    for headers, body in (({}, b"x" * 60), ({"content-encoding": "gzip"}, gzip.compress(b"x" * 60))):
        with pytest.raises(Unavailable) as refused:
            await read_body(pieces(body), headers, BOUNDS, requests[2])
        assert refused.value.retry_after_header == "1"
        requests[2].give_back()
    requests[0].give_back()
    assert await read_body(pieces(b"x" * 60), {}, BOUNDS, requests[3]) == b"x" * 60
    for request in requests:
        request.give_back()
        request.give_back()
    assert held.held_bytes == 0
