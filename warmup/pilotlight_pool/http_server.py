"""uvicorn on a socket and an event loop that are ours: it installs no signal handlers and starts no process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from pilotlight_pool.listener import address_of

_END_GRACE_S = 2


class _Quiet(uvicorn.Server):  # type: ignore[misc]  # uvicorn is not followed by mypy here
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """`run` until `close`."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        self._listener = listener
        self.address = address_of(listener)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_END_GRACE_S,
            timeout_keep_alive=60,
            server_header=False,
        )
        self._server = _Quiet(config)
        self._ended = asyncio.Event()

    async def run(self) -> None:
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._ended.set()

    async def close(self) -> None:
        self._server.should_exit = True
        await self._ended.wait()
