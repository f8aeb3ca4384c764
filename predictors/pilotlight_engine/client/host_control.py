"""Our end of the control socket of an engine host that is our own child: what to boot, its phases, why it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from pilotlight_protocol.engine_frames import AgentFrame, ControlFrame, Failed, Progress
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.frame_codec import FrameSplitter, encode


class HostControl(asyncio.Protocol):
    """`closed` is set when the host has closed its end; `exit_report` is then what it said before, if anything."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.closed = asyncio.Event()
        self.exit_report: Failed | None = None
        self._on_phase = on_phase
        self._transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(ControlFrame)

    def send(self, frame: AgentFrame) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("the engine ended unexpectedly; it is being replaced")
        self._transport.write(encode(frame))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for body in self._splitter.feed(data):
            match self._decoder.decode(body):
                case Progress(phase):
                    self._on_phase(phase)
                case Failed() as report:
                    self.exit_report = report

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
