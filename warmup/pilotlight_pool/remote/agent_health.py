"""What a supervisor asks an agent: is it alive, and can its engines be used?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web


class AgentHealth:
    """`GET /healthz` and `GET /readyz` until cancelled. `why_not`: why it is not ready, "" where it is."""

    def __init__(self, why_not: Callable[[], str], listener: socket.socket) -> None:
        self._why_not = why_not
        self._listener = listener

    async def run(self) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener).start()
            await asyncio.get_running_loop().create_future()
        finally:
            await runner.cleanup()

    async def _alive(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        why_not = self._why_not()
        return web.json_response({"ready": not why_not, "reason": why_not}, status=503 if why_not else 200)
