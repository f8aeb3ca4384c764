"""One WebSocket between agent and coordinator, for both ends: frames in order, or its end. Knows no frame's meaning."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from pilotlight_pool.remote.frames import Beat, Frame, encode

_MOST_QUEUED = 1024
_CLOSE_DEADLINE_S = 1.0
_Heard = TypeVar("_Heard")


class Wire(Generic[_Heard]):
    """A peer that reads nothing, or says nothing for `silent_s`, ends it: no frame is dropped on one that lives."""

    def __init__(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        heard: msgspec.msgpack.Decoder[_Heard],
        silent_s: float,
    ) -> None:
        self.silent_s = silent_s
        self._socket = socket
        self._decoder = heard
        self._queue: asyncio.Queue[Frame] = asyncio.Queue(_MOST_QUEUED)
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def send(self, frame: Frame) -> None:
        """Queue a frame; after the connection's end it goes nowhere."""
        if self._over.done():
            return
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            self.end(f"the other end has not read {_MOST_QUEUED} frames")

    def end(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)

    async def first(self, deadline_s: float) -> _Heard | None:
        """The first frame, before `run`; None when none came in time, or none that is understood."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._receive()
        except TimeoutError:
            return None

    async def say(self, frame: Frame) -> None:
        """Send at once, before `run`. Raises OSError, TimeoutError."""
        try:
            async with asyncio.timeout(self.silent_s):
                await self._socket.send_bytes(encode(frame))
        except (RuntimeError, aiohttp.ClientError) as error:
            raise ConnectionError(str(error)) from error

    async def run(self, hear: Callable[[_Heard], None], beat: Callable[[], Beat], beat_s: float) -> str:
        """Send and hear until the connection is over, then close it; returns why it ended. `hear` must not block."""
        tasks = [
            asyncio.create_task(self._reading(hear)),
            asyncio.create_task(self._writing()),
            asyncio.create_task(self._beating(beat, beat_s)),
        ]
        try:
            return await asyncio.shield(self._over)
        finally:
            self.end("closed")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError, OSError, RuntimeError, aiohttp.ClientError):
                async with asyncio.timeout(_CLOSE_DEADLINE_S):
                    await self._socket.close()

    async def _reading(self, hear: Callable[[_Heard], None]) -> None:
        while (frame := await self._receive()) is not None and not self._over.done():
            hear(frame)

    async def _writing(self) -> None:
        while True:
            frame = await self._queue.get()
            try:
                await self.say(frame)
            except TimeoutError:
                return self.end(f"it has taken nothing for {self.silent_s:g} s")
            except OSError as error:
                return self.end(f"the connection broke: {error or type(error).__name__}")

    async def _beating(self, beat: Callable[[], Beat], beat_s: float) -> None:
        while True:
            self.send(beat())
            await asyncio.sleep(beat_s)

    async def _receive(self) -> _Heard | None:
        try:
            message = await self._socket.receive(timeout=self.silent_s)
        except TimeoutError:
            self.end(f"it has said nothing for {self.silent_s:g} s")
            return None
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            self.end(f"the connection broke: {error or type(error).__name__}")
            return None
        if message.type is not aiohttp.WSMsgType.BINARY:
            self.end(f"the connection was closed ({message.type.name.lower()})")
            return None
        try:
            return self._decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            self.end(f"it does not speak this protocol: {error}")
            return None
