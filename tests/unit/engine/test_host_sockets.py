"""The socket thread of an engine host over socket pairs: what passes the door, and whose end it survives."""

from __future__ import annotations

import hashlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
from waiting import until

from pilotlight_engine.host.host_sockets import FromLease, HostItem, HostSockets, Inbox, Joined, Left
from pilotlight_protocol.engine_frames import (
    Check,
    ControlFrame,
    Generate,
    GenerateRequest,
    Grant,
    Hello,
    Metrics,
    Ping,
    Pong,
    Shutdown,
)
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.generation import GenerationParameters

SECRET = "s" * 64
GRANT = Grant("L1", hashlib.sha256(SECRET.encode()).hexdigest(), "tenant")
HELLO = encode(Hello("L1", SECRET))
DEADLINE_S = 10.0
# Its frame is over 10 kB; a stranger may send 4 kB.
LONG = Generate(1, GenerateRequest("r", list(range(1000, 5000)), GenerationParameters()))


class Door:
    """A listener that gives out what was put into it."""

    def __init__(self) -> None:
        self._arrivals: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._fd = os.eventfd(0, os.EFD_SEMAPHORE)

    def close(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def admit(self, sock: socket.socket) -> None:
        self._arrivals.put(sock)
        os.eventfd_write(self._fd, 1)

    def accept(self) -> tuple[socket.socket, str]:
        os.eventfd_read(self._fd)
        return self._arrivals.get(), ""


class Running:
    """A `HostSockets` whose thread runs; this is the agent, the lease's holder and the engine thread."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing = closing
        self.agent, control = (closing.enter_context(end) for end in socket.socketpair())
        self.agent.settimeout(DEADLINE_S)
        self.agent_gone = threading.Event()
        self.link = HostSockets(control, self.agent_gone.set)
        self.link.grants = {GRANT.lease_id: GRANT}
        self.door = Door()
        closing.callback(self.door.close)
        self.link.open_door(self.door)  # type: ignore[arg-type]  # a fake
        self.thread = threading.Thread(target=self.link.run, daemon=True)
        self.thread.start()
        self._items: list[HostItem] = []

    def connect(self, opening: bytes | bytearray = b"", *, close: bool = False) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._closing.enter_context(ours)
        ours.sendall(opening)
        if close:
            ours.close()
        self._closing.enter_context(theirs)
        self.door.admit(theirs)
        return ours

    def take(self) -> HostItem:
        if not self._items:
            self._items = until(lambda: self.link.inbox.take(wait=False), DEADLINE_S)
        return self._items.pop(0)

    def lives(self) -> bool:
        self.agent.sendall(encode(Ping()))
        splitter, decoder = FrameSplitter(), msgspec.msgpack.Decoder(ControlFrame)
        while data := self.agent.recv(4096):
            for body in splitter.feed(data):
                return isinstance(decoder.decode(body), Pong)
        return False


@pytest.fixture
def running() -> Iterator[Running]:
    with ExitStack() as closing:
        running = Running(closing)
        yield running
        running.agent.close()
        running.thread.join(DEADLINE_S)
        assert running.agent_gone.is_set()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pipelined", [True, False], ids=["behind-the-hello", "after-it"])
def test_who_has_shown_the_secret_may_send_long_requests(running: Running, pipelined: bool) -> None:
    holder = running.connect(HELLO + encode(LONG) if pipelined else HELLO)
    joined = running.take()
    assert isinstance(joined, Joined)
    if not pipelined:
        holder.sendall(encode(LONG))
    assert running.take() == FromLease(joined.link, LONG)
    holder.sendall(encode(LONG) + encode(Check(3)))
    assert [running.take(), running.take()] == [FromLease(joined.link, LONG), FromLease(joined.link, Check(3))]


@pytest.mark.timeout(60)
def test_a_stranger_may_not(running: Running) -> None:
    stranger = running.connect(encode(LONG) + HELLO)
    stranger.settimeout(DEADLINE_S)
    # Closed with bytes unread: the pair's other end is reset.
    with pytest.raises(ConnectionResetError):
        stranger.recv(1)
    assert running.lives()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "behind", [encode(Metrics(1)), encode(Check(1)), b"\xff" * 8, b"\x01\0\0\0\xc1"],
    ids=["metrics", "check", "no-frame", "no-message"],
)  # fmt: skip
def test_a_holder_that_closes_early_ends_its_connection_only(running: Running, behind: bytes) -> None:
    running.connect(HELLO + behind, close=True)
    items = [running.take(), running.take()]
    if isinstance(items[-1], FromLease):
        items.append(running.take())
    assert isinstance(items[0], Joined)
    assert isinstance(items[-1], Left)
    assert running.lives()
    again = running.connect(HELLO + encode(Check(2)))
    joined = running.take()
    assert isinstance(joined, Joined)
    assert running.take() == FromLease(joined.link, Check(2))
    again.close()
    assert running.take() == Left(joined.link)


@pytest.mark.timeout(60)
def test_whatever_breaks_the_thread_the_host_hears_of_it() -> None:
    def broken() -> bytes:
        raise RuntimeError("a collector failed")

    with ExitStack() as closing:
        running = Running(closing)
        running.link.on_metrics = broken
        running.connect(HELLO + encode(Metrics(1)))
        assert running.agent_gone.wait(DEADLINE_S)
        running.thread.join(DEADLINE_S)


def test_the_only_holder_is_let_in_without_a_secret_and_has_what_it_sent_before() -> None:
    with ExitStack() as closing:
        running = Running(closing)
        holder, host = (closing.enter_context(end) for end in socket.socketpair())
        holder.sendall(encode(Check(7)))
        running.link.let_in(host)
        joined = running.take()
        assert isinstance(joined, Joined)
        assert list(running.link.grants.values()) == [joined.link.grant]
        heard = running.take()
        assert isinstance(heard, FromLease)
        assert (heard.link, heard.frame) == (joined.link, Check(7))
        holder.close()
        assert running.take() == Left(joined.link)
        assert not running.agent_gone.is_set()


@pytest.mark.real_time(reason="a thread waits in the inbox")
def test_the_engine_is_woken_though_nothing_was_read() -> None:
    inbox = Inbox(4, lambda: None)
    taken: list[list[HostItem]] = []
    waiting = threading.Thread(target=lambda: taken.append(inbox.take(wait=True)))
    waiting.start()
    inbox.wake()
    waiting.join(5.0)
    assert taken == [[]]
    inbox.wake()
    assert inbox.take(wait=True) == []
    inbox.put(Shutdown())
    assert inbox.take(wait=True) == [Shutdown()]
