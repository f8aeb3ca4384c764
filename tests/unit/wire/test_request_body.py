"""Bodies: limits in every form, codings, and clients that stall or leave."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge, UnsupportedMediaType
from pilotlight_wire.http_exchange import BodyAborted, BodyStalled, pack, read_body, unpack

LIMIT = 100


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
    return await read_body(receive, given, LIMIT, stall_timeout_s=0.01)


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
