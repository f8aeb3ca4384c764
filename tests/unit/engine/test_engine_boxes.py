"""Outbox and inbox over a socket pair of our own: order, bounds and the stalled holder."""

import socket
import threading
from collections.abc import Iterator

import pytest

from pilotlight_engine.host.host_sockets import HolderStalled, Inbox, Outbox
from pilotlight_protocol.engine_frames import Check


class FakeSocket:
    """Takes at most `room` bytes, like a kernel buffer that someone drains."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = bytearray()

    def send(self, data: bytes) -> int:
        if self.room == 0:
            raise BlockingIOError
        count = min(self.room, len(data))
        self.taken += memoryview(data)[:count]
        self.room -= count
        return count


def outbox(sock: FakeSocket, wakes: list[bool], limit: int = 100, deadline_s: float = 0.0) -> Outbox:
    return Outbox(sock, lambda: wakes.append(True), limit, deadline_s)  # type: ignore[arg-type]  # a fake


def test_what_fits_is_sent_at_once() -> None:
    wakes: list[bool] = []
    sock = FakeSocket(10)
    outbox(sock, wakes).send(bytearray(b"0123456789"))
    assert sock.taken == b"0123456789"
    assert not wakes


def test_the_rest_is_kept_in_order_and_flushed() -> None:
    wakes: list[bool] = []
    sock = FakeSocket(4)
    box = outbox(sock, wakes)
    box.send(bytearray(b"abcdef"))
    box.send(bytearray(b"ghi"))
    assert wakes == [True]
    assert not box.drain(0.0)
    sock.room = 3
    assert not box.flush()
    sock.room = 100
    assert box.flush()
    assert sock.taken == b"abcdefghi"
    assert box.drain(0.0)


def test_a_predictor_that_does_not_read_stops_the_engine_at_the_limit() -> None:
    box = outbox(FakeSocket(0), [], limit=8)
    box.send(bytearray(b"12345678"))
    with pytest.raises(HolderStalled):
        box.send(bytearray(b"9"))


def test_the_flushing_thread_itself_never_waits() -> None:
    box = outbox(FakeSocket(0), [], limit=1)
    box.send(bytearray(b"123"))
    box.send(bytearray(b"456"), wait=False)


def test_room_is_waited_for_no_longer_than_asked() -> None:
    sock = FakeSocket(0)
    box = outbox(sock, [], limit=4)
    box.send(bytearray(b"123456"))
    assert not box.has_room(0.0)
    sock.room = 2
    box.flush()
    assert box.has_room(0.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_waiting_engine_goes_on_when_the_predictor_reads(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    box = Outbox(ours, lambda: None, limit_bytes=1024, stall_deadline_s=30.0)
    frame = bytearray(b"x" * 2**20)

    def send() -> None:
        box.send(bytearray(frame))
        box.send(bytearray(frame))

    sent = threading.Thread(target=send)
    sent.start()
    received = 0
    while received < 2 * len(frame):
        received += len(theirs.recv(2**16))
        box.flush()
    sent.join(10.0)
    assert not sent.is_alive()


def test_inbox_hands_over_everything_at_once() -> None:
    box = Inbox(10, lambda: None)
    box.put(Check(1))
    box.put(Check(2))
    assert box.take(wait=True) == [Check(1), Check(2)]
    assert box.take(wait=False) == []


def test_a_full_inbox_says_so_and_then_that_there_is_room() -> None:
    rooms: list[bool] = []
    box = Inbox(2, lambda: rooms.append(True))
    assert box.put(Check(1))
    assert not box.put(Check(3))
    assert not rooms
    box.take(wait=False)
    assert rooms == [True]
    assert box.put(Check(4))
