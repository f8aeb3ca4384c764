"""A holder's end of the connection to an engine host: an `Engine` made of frames. Must not start or end processes.

Frames are decoded in the protocol's own callback and handed to their request's stream at once: one wake-up per request
and engine step, no task, no queue and no generator in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from pilotlight_engine.contract import EngineInfo, EngineStats, GenerateRequest, PooledVector, PoolRequest
from pilotlight_protocol.engine_frames import (
    Abort,
    Check,
    Checked,
    Failed,
    Generate,
    LeaseFrame,
    LeaseHostFrame,
    Metrics,
    MetricsText,
    Pool,
    Pooled,
    Refused,
    Step,
    Welcome,
)
from pilotlight_protocol.errors import PilotlightError, Unavailable, from_status
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.generation import TokenDelta

T = TypeVar("T")


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
        self._streams: dict[int, EngineStream] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._pools: dict[int, asyncio.Future[PooledVector]] = {}

    def generate(self, request: GenerateRequest) -> EngineStream:
        """See `contract.Engine.generate`."""
        number = next(self._numbers)
        self.send(Generate(number, request))
        stream = self._streams[number] = EngineStream(request.parameters.n, lambda: self._leave(number))
        return stream

    async def pool(self, request: PoolRequest) -> PooledVector:
        """See `contract.Engine.pool`."""
        number = next(self._numbers)
        answer: asyncio.Future[PooledVector] = asyncio.get_running_loop().create_future()
        self._pools[number] = answer
        try:
            self.send(Pool(number, request))
            return await answer
        except asyncio.CancelledError:
            # Where nothing can be sent any more, nothing of it runs either.
            with contextlib.suppress(Unavailable):
                self.send(Abort(number))
            raise
        finally:
            del self._pools[number]

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
        for stream in self._streams.values():
            stream.fail(error)
        waiting: list[asyncio.Future[Any]] = [*self._calls.values(), *self._pools.values()]
        for call in waiting:
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
            streams = self._streams
            for number, delta in frame.deltas:
                if (stream := streams.get(number)) is not None:
                    stream.put(delta)
            return
        match frame:
            case Pooled(vectors):
                for number, vector in vectors:
                    _answer(self._pools.get(number), vector)
            case Refused(number, status, message, param):
                error = from_status(status, message, param=param)
                if (refused := self._streams.get(number)) is not None:
                    refused.fail(error)
                elif (pool := self._pools.get(number)) is not None and not pool.done():
                    pool.set_exception(error)
            case MetricsText(call, text):
                _answer(self._calls.get(call), text)
            case Checked(call):
                _answer(self._calls.get(call), b"")
            case Welcome(info, stats, model_name):
                self.info, self.stats, self.model_name = info, stats, model_name
                if not self.ready.done():
                    self.ready.set_result(None)
            case Failed():
                self.exit_report = frame

    def _leave(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None and not stream.finished:
            # Where nothing can be sent any more, nothing of it runs either.
            with contextlib.suppress(Unavailable):
                self.send(Abort(number))


def _answer(answer: asyncio.Future[T] | None, value: T) -> None:
    if answer is not None and not answer.done():
        answer.set_result(value)


class EngineStream:
    """One request's deltas on their way from the socket to the coroutine that reads them: a `contract.DeltaStream`.

    Deltas that were not read yet are merged per choice, so a slow reader costs at most `n * max_tokens` token ids of
    memory, and a fast one sees each step as it comes. `choices` is the number of finish reasons after which the request
    is over; `on_end` is called when nobody reads any more, perhaps more than once. Belongs to one event loop.
    """

    def __init__(self, choices: int, on_end: Callable[[], None]) -> None:
        self._open_choices = choices
        self._on_end = on_end
        self._unread: dict[int, TokenDelta] = {}
        self._error: PilotlightError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Nothing more will be put: every choice has its reason, or the request failed."""
        return self._open_choices <= 0 or self._error is not None

    def put(self, delta: TokenDelta) -> None:
        unread = self._unread.get(delta.index)
        if unread is None:
            self._unread[delta.index] = delta
        else:
            _merge(unread, delta)
        if delta.finish_reason is not None:
            self._open_choices -= 1
        self._wake()

    def fail(self, error: PilotlightError) -> None:
        """End with `error`; what was put before is still read first."""
        if not self.finished:
            self._error = error
            self._wake()

    def __aiter__(self) -> EngineStream:
        return self

    async def __anext__(self) -> list[TokenDelta]:
        """Everything unread, waiting for the first. Raises what `fail` was given."""
        while not self._unread:
            if self.finished:
                self._on_end()
                raise self._error or StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except BaseException:
                self._on_end()
                raise
        unread, self._unread = self._unread, {}
        return list(unread.values())

    async def aclose(self) -> None:
        self._on_end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _merge(into: TokenDelta, later: TokenDelta) -> None:
    """Append a later delta of the same choice to one that was not read yet."""
    into.token_ids.extend(later.token_ids)
    if later.logprobs is not None:
        into.logprobs = (into.logprobs or []) + later.logprobs
    into.finish_reason = later.finish_reason
    into.stop_reason = later.stop_reason
