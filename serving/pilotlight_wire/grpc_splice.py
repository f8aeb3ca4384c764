"""Joins a client's HTTP/2 connection to the gRPC server on its abstract Unix socket in the same process.

gRPC's core takes no foreign sockets, so bytes are copied, each side paused while the other is full. The client's frames
are read until the first request's head is whole: a REST request is answered here, what follows is copied unread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.h2_frames import EMPTY_SETTINGS, PREFACE, Frame, FrameReader, is_flood
from pilotlight_wire.http2_requests import MAX_HEADER_BYTES, FirstRequest, is_grpc, rest_refusal

_log = logging.getLogger("pilotlight.port")

GrpcPath = Callable[[], Awaitable[str]]
"""The abstract address of the gRPC server without its leading NUL; may start the server."""

MAX_OPENING_BYTES = 2 * MAX_HEADER_BYTES
"""Of what a client sends before its first request's head is whole."""

Connect = Callable[[asyncio.Protocol], Awaitable[None]]


def connect_to(grpc_path: GrpcPath) -> Connect:
    async def connect(protocol: asyncio.Protocol) -> None:
        path = await grpc_path()
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # libuv does not know abstract addresses; connecting to one never waits while its backlog has room.
            inner.connect("\0" + path)
            await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=inner)
        except BaseException:
            inner.close()
            raise

    return connect


class GrpcSplice(asyncio.Protocol):
    """The client's side of one spliced connection. `first_request_timeout_s`: for its first request's head; a client
    that connects ahead of its first call has that long before it has to connect again."""

    def __init__(self, connect: Connect, first_request_timeout_s: float, on_closed: Callable[[], None]) -> None:
        self._connect = connect
        self._timeout_s = first_request_timeout_s
        self._on_closed = on_closed
        self._first: FirstRequest | None = FirstRequest()
        self._reader = FrameReader()
        self._preface_left = len(PREFACE)
        self._server = _ServerSide(self)
        self._connecting: asyncio.Task[None] | None = None
        self._held = bytearray()
        self._joined = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._timeout_s, self.close)
        self._connecting = loop.create_task(self._join())

    async def _join(self) -> None:
        try:
            await self._connect(self._server)
        except OSError as error:
            _log.warning("a gRPC connection could not be joined to the server: %s", error)
            self.transport.abort()
        else:
            self._joined = True
            self.transport.resume_reading()
            self._pass_held()

    def data_received(self, data: bytes) -> None:
        if self._first is None and self._joined:
            self._server.write(data)
            return
        self._held += data
        skipped = min(self._preface_left, len(data))
        self._preface_left -= skipped
        try:
            self._look_at(self._reader.feed(data[skipped:]))
        except InvalidInput:
            self.close()
            return
        if self._first is None:
            if not self._joined:
                self.transport.pause_reading()
        elif len(self._held) > MAX_OPENING_BYTES:
            self.close()
        elif not self._reader.has_part:
            # Settings and pings go on at once: a client may wait for their answers before its first request.
            self._pass_held()

    def _look_at(self, frames: list[Frame]) -> None:
        if is_flood(frames):
            raise InvalidInput("a flood of frames before the first request")
        for frame in frames:
            fields = self._first.take(frame) if self._first is not None else None
            if fields is not None:
                self._first_request(frame.stream_id, is_grpc(fields))

    def _first_request(self, stream_id: int, grpc: bool) -> None:
        self._deadline.cancel()
        self._first = None
        if grpc:
            self._pass_held()
            return
        greeting = b"" if self._server.greeted else EMPTY_SETTINGS
        self.transport.write(greeting + rest_refusal(stream_id))
        self.close()

    def _pass_held(self) -> None:
        if self._joined:
            self._server.write(bytes(self._held))
            self._held.clear()

    def pause_writing(self) -> None:
        self._server.pause_reading()

    def resume_writing(self) -> None:
        self._server.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        self._server.close()
        self._on_closed()

    def close(self) -> None:
        """End the connection once what was written has been sent."""
        self.transport.close()


class _ServerSide(asyncio.Protocol):
    """The connection to the gRPC server. `greeted`: the client has had its settings."""

    def __init__(self, client: GrpcSplice) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._client.transport.is_closing():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.greeted = True
        if not self._client.transport.is_closing():
            self._client.transport.write(data)

    def write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
