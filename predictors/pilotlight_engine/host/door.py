"""The door of an engine host: connections that have not yet shown the secret of a granted lease. Socket thread only.

A stranger has little time, few bytes and few others beside it; who shows a secret is handed on, and who shows a wrong
one hears nothing for a while.
"""

from __future__ import annotations

import hashlib
import hmac
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from pilotlight_protocol.engine_frames import Grant, Hello, LeaseFrame
from pilotlight_protocol.frame_codec import MAX_FRAME_BYTES, FrameSplitter

_HELLO_BYTES = 4096
_HELLO_DEADLINE_S = 5.0
_STRANGERS = 16
# A wrong secret is answered with silence for this long: 256 bits cannot be guessed, and a broken client must not spin.
_REFUSAL_DELAY_S = 0.5


@dataclass
class _Stranger:
    """A connection that has not shown a secret; `closes_at_s` (monotonic) at the latest. `refused`: it was wrong."""

    sock: socket.socket
    splitter: FrameSplitter
    closes_at_s: float
    refused: bool = False


Admit = Callable[[socket.socket, Grant, FrameSplitter, Iterator[memoryview]], None]
"""Takes a connection over: whose it is, and what has come behind its Hello."""


class Door:
    """`grants` tells whose secrets open it now; who has shown one goes to `admit`. `strangers`: who has not, by fd."""

    def __init__(self, poll: select.epoll, grants: Callable[[], Mapping[str, Grant]], admit: Admit) -> None:
        self._poll = poll
        self._grants = grants
        self._admit = admit
        self._decoder = msgspec.msgpack.Decoder(LeaseFrame)
        self._listener: socket.socket | None = None
        self.strangers: dict[int, _Stranger] = {}

    def open(self, listener: socket.socket) -> None:
        """Accept connections on `listener` from now on. Any thread, once."""
        self._listener = listener
        self._poll.register(listener.fileno(), select.EPOLLIN)

    def serve(self, fd: int) -> None:
        """Do what `fd` is ready for, where it is one of ours."""
        if self._listener is not None and fd == self._listener.fileno():
            self._accept(self._listener)
        elif (stranger := self.strangers.get(fd)) is not None:
            self._hear(stranger)

    def close_late(self, now_s: float) -> None:
        for stranger in [late for late in self.strangers.values() if late.closes_at_s <= now_s]:
            self._close(stranger)

    def next_deadline_s(self, now_s: float) -> float:
        """How long until `close_late` has something to do, while there are strangers."""
        return max(0.0, min(stranger.closes_at_s for stranger in self.strangers.values()) - now_s)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self.strangers) >= _STRANGERS:
            sock.close()
            return
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stranger = _Stranger(sock, FrameSplitter(_HELLO_BYTES), time.monotonic() + _HELLO_DEADLINE_S)
        self.strangers[sock.fileno()] = stranger
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _hear(self, stranger: _Stranger) -> None:
        if stranger.refused:
            return self._close(stranger)
        try:
            data = stranger.sock.recv(_HELLO_BYTES)
            bodies = stranger.splitter.feed(data)
            first = next(bodies, None)
            grant = None if first is None else self._granted(self._decoder.decode(first))
        except BlockingIOError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError):
            return self._refuse(stranger)
        if not data:
            return self._close(stranger)
        if first is None:
            return None
        if grant is None:
            return self._refuse(stranger)
        del self.strangers[stranger.sock.fileno()]
        # Before the rest of `bodies` is asked for: a request may lie behind the Hello.
        stranger.splitter.limit_bytes = MAX_FRAME_BYTES
        return self._admit(stranger.sock, grant, stranger.splitter, bodies)

    def _granted(self, frame: LeaseFrame) -> Grant | None:
        grant = self._grants().get(frame.lease_id) if isinstance(frame, Hello) else None
        if grant is None or not isinstance(frame, Hello):
            return None
        shown = hashlib.sha256(frame.secret.encode()).hexdigest()
        return grant if hmac.compare_digest(shown, grant.secret_sha256) else None

    def _refuse(self, stranger: _Stranger) -> None:
        stranger.refused = True
        stranger.closes_at_s = min(stranger.closes_at_s, time.monotonic() + _REFUSAL_DELAY_S)
        # Nothing more is read from it: until then only its end is heard of.
        self._poll.modify(stranger.sock.fileno(), 0)

    def _close(self, stranger: _Stranger) -> None:
        del self.strangers[stranger.sock.fileno()]
        stranger.sock.close()
