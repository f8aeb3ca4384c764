"""The host's way out: the engine thread writes frames to the socket itself, and a holder that stops reading stops it.

The usual frame costs one non-blocking send and no thread switch. What the kernel does not take is kept, in order, for
the socket thread to send; over `limit_bytes` of it the engine thread waits, so memory is bounded. Must not know frames.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

_WAIT_SLICE_S = 1.0


class PredictorStalled(Exception):
    """The predictor did not read for `stall_deadline_s`; there is no one left to generate for."""


class Outbox:
    """`on_backlog` is called (any thread, at most once per backlog) when `flush` must be called on writability."""

    def __init__(
        self, sock: socket.socket, on_backlog: Callable[[], None], limit_bytes: int, stall_deadline_s: float
    ) -> None:
        self._sock = sock
        self._on_backlog = on_backlog
        self._limit_bytes = limit_bytes
        self._stall_deadline_s = stall_deadline_s
        self._backlog = bytearray()
        self._drained = threading.Condition()

    def send(self, frame: bytearray, *, wait: bool = True) -> None:
        """Send or keep `frame`; waits while too much is kept, unless it is called by the thread that flushes.

        Raises PredictorStalled, OSError (the predictor is gone).
        """
        with self._drained:
            if self._backlog:
                self._backlog += frame
                if wait:
                    self._wait_for_front()
                return
            sent = self._try_send(frame)
            if sent < len(frame):
                self._backlog += memoryview(frame)[sent:]
                self._on_backlog()

    def flush(self) -> bool:
        """Send what was kept as far as the kernel takes it; True when nothing is left."""
        with self._drained:
            if self._backlog:
                sent = self._try_send(self._backlog)
                del self._backlog[:sent]
                if sent:
                    self._drained.notify_all()
            return not self._backlog

    def has_room(self, deadline_s: float) -> bool:
        """Wait until no more than the limit is kept; False when the deadline came first."""
        with self._drained:
            return self._drained.wait_for(lambda: len(self._backlog) <= self._limit_bytes, deadline_s)

    def drain(self, deadline_s: float) -> bool:
        """Wait until the socket thread has sent everything; False when the deadline came first."""
        with self._drained:
            return self._drained.wait_for(lambda: not self._backlog, deadline_s)

    def _wait_for_front(self) -> None:
        stalled_s = 0.0
        while len(self._backlog) > self._limit_bytes:
            if self._drained.wait(_WAIT_SLICE_S):
                stalled_s = 0.0
                continue
            stalled_s += _WAIT_SLICE_S
            if stalled_s >= self._stall_deadline_s:
                raise PredictorStalled(f"the predictor has not read for {stalled_s:.0f} s")

    def _try_send(self, data: bytearray) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
