"""A holder's end of the connection to an engine host: an `Engine` made of frames. Must not start or end processes.

Frames are decoded in the protocol's own callback and handed to the mailboxes at once: one wake-up per request and
engine step, no task and no queue in between.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import cast

import msgspec

from pilotlight_engine.client.token_mailbox import Mailbox
from pilotlight_engine.contract import EngineInfo, EngineStats, GenerateRequest
from pilotlight_protocol.engine_frames import (
    Abort,
    Check,
    Checked,
    Failed,
    FrameSplitter,
    Generate,
    LeaseFrame,
    LeaseHostFrame,
    Metrics,
    MetricsText,
    Refused,
    Step,
    Welcome,
    encode,
)
from pilotlight_protocol.errors import Unavailable, from_status
from pilotlight_protocol.generation import TokenDelta


class EngineClient(asyncio.Protocol):
    """Implements `contract.Engine` once `ready` has a result; `info` is not set before.

    When the connection ends, `disconnected` is set; whoever owns the process then calls `lose` with what is known about
    it, which fails every request that runs. `model_name`: what the host serves, told in its Welcome.
    """

    info: EngineInfo

    def __init__(self, call_deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.stats = EngineStats()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.disconnected = asyncio.Event()
        self.exit_report: Failed | None = None
        self.model_name = ""
        self._call_deadline_s = call_deadline_s
        self._transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(LeaseHostFrame)
        self._numbers = itertools.count(1)
        self._mailboxes: dict[int, Mailbox] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[TokenDelta], None]:
        """See `contract.Engine.generate`."""
        stream = next(self._numbers)
        mailbox = Mailbox(request.parameters.n)
        self.send(Generate(stream, request))
        self._mailboxes[stream] = mailbox
        try:
            while deltas := await mailbox.take():
                yield deltas
        finally:
            del self._mailboxes[stream]
            if not mailbox.finished and not self.lost.done():
                self.send(Abort(stream))

    async def metrics(self) -> bytes:
        return await self._call(Metrics(next(self._numbers)))

    async def check(self) -> None:
        await self._call(Check(next(self._numbers)))

    def send(self, frame: LeaseFrame) -> None:
        """Write a frame. Raises Unavailable when the engine was lost or is about to be."""
        if self.lost.done():
            raise Unavailable(self.lost.result())
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("the engine ended unexpectedly; it is being replaced")
        self._transport.write(encode(frame))

    def lose(self, reason: str) -> None:
        """Fail everything that waits for this engine; later calls raise Unavailable with the same reason."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        error = Unavailable(reason)
        for mailbox in self._mailboxes.values():
            mailbox.fail(error)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    async def _call(self, frame: Metrics | Check) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[frame.call] = answer
        try:
            self.send(frame)
            async with asyncio.timeout(self._call_deadline_s):
                return await answer
        except TimeoutError:
            raise Unavailable(f"the engine did not answer within {self._call_deadline_s:g} s") from None
        finally:
            del self._calls[frame.call]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for body in self._splitter.feed(data):
            self._dispatch(self._decoder.decode(body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnected.set()

    def _dispatch(self, frame: LeaseHostFrame) -> None:
        if isinstance(frame, Step):
            self.stats = frame.stats
            mailboxes = self._mailboxes
            for stream, delta in frame.deltas:
                if (mailbox := mailboxes.get(stream)) is not None:
                    mailbox.put(delta)
            return
        match frame:
            case Refused(stream, status, message):
                if (mailbox := self._mailboxes.get(stream)) is not None:
                    mailbox.fail(from_status(status, message))
            case MetricsText(call, text):
                self._answer(call, text)
            case Checked(call):
                self._answer(call, b"")
            case Welcome(info, stats, model_name):
                self.info, self.stats, self.model_name = info, stats, model_name
                if not self.ready.done():
                    self.ready.set_result(None)
            case Failed():
                self.exit_report = frame

    def _answer(self, call: int, value: bytes) -> None:
        answer = self._calls.get(call)
        if answer is not None and not answer.done():
            answer.set_result(value)
