"""An answer's pieces from an upstream connection to the client's, without sockets: whole, in order, not too fast."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from memory_transport import MemoryTransport, connect

from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.poured_events import pour
from pilotlight_wire.shared_timer import SharedTimer

pytestmark = pytest.mark.looptime
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Basin:
    """A client that may read too slowly."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.is_full = False
        self.emptied = asyncio.Event()

    def write(self, piece: bytes) -> None:
        self.got.append(piece)

    async def drained(self) -> None:
        await self.emptied.wait()
        self.is_full = False


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def upstream(silence_s: float = 60.0) -> tuple[HttpConnection, MemoryTransport]:
    connection = HttpConnection(SharedTimer(silence_s))
    transport = connect(connection)
    connection.send(b"GET / HTTP/1.1\r\n\r\n")
    connection.data_received(HEAD)
    await connection.head()
    return connection, transport


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_pieces_pass_when_they_come() -> None:
    connection, _ = await upstream()
    basin = Basin()
    connection.data_received(chunk(b"before"))
    pouring = asyncio.create_task(connection.pour(basin.write, basin))
    await settle()
    for piece in (b"a", b"b"):
        connection.data_received(chunk(piece))
        assert basin.got[-1] == piece, "no turn of the loop between"
    connection.data_received(chunk(b"c") + chunk(b"d") + b"0\r\n\r\n")
    await pouring
    assert basin.got == [b"before", b"a", b"b", b"cd"]
    assert connection.reusable


async def test_a_slow_client_stops_the_upstream() -> None:
    connection, transport = await upstream()
    basin = Basin()
    pouring = asyncio.create_task(connection.pour(basin.write, basin))
    await settle()
    basin.is_full = True
    connection.data_received(chunk(b"a"))
    await settle()
    assert transport.paused
    basin.emptied.set()
    await settle()
    assert not transport.paused
    connection.data_received(b"0\r\n\r\n")
    await pouring


@pytest.mark.parametrize("how", ["lost", "silent", "taker"])
async def test_what_goes_wrong_is_raised(how: str) -> None:
    connection, _ = await upstream(silence_s=5.0)
    basin = Basin()

    def take(piece: bytes) -> None:
        if how == "taker":
            raise ValueError("not an event")
        basin.write(piece)

    pouring = asyncio.create_task(connection.pour(take, basin))
    await settle()
    connection.data_received(chunk(b"a"))
    if how == "lost":
        connection.connection_lost(None)
    with pytest.raises({"lost": ConnectionLost, "silent": Silence, "taker": ValueError}[how]):
        await pouring


async def test_events_without_a_way_of_their_own_are_poured_one_by_one() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"a"
        basin.is_full = True
        yield b"b"
        yield b"c"

    basin = Basin()
    pouring = asyncio.create_task(pour(events(), basin))
    await settle()
    assert basin.got == [b"a", b"b"]
    basin.emptied.set()
    await pouring
    assert basin.got == [b"a", b"b", b"c"]
