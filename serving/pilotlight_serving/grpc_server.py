"""The gRPC server, which is imported and started when the first HTTP/2 connection comes.

Most pods never see one, and importing gRPC would make every cold start longer (decision 6). Must not: know methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import secrets
from typing import Any

from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.grpc_plane import GrpcPlane
from pilotlight_serving.settings import ServerSettings


class GrpcServer:
    def __init__(self, plane: GrpcPlane, limiter: ConcurrencyLimiter, settings: ServerSettings) -> None:
        self._plane = plane
        self._limiter = limiter
        self._settings = settings
        self._address = f"pilotlight-{secrets.token_hex(8)}"
        self._server: Any = None
        self._starting = asyncio.Lock()

    async def path(self) -> str:
        """The abstract Unix address where it listens, without the leading NUL; the first call starts it."""
        async with self._starting:
            if self._server is None:
                service = await asyncio.to_thread(importlib.import_module, "pilotlight_serving.grpc_service")
                server = service.grpc_server(self._plane, self._limiter, self._settings)
                server.add_insecure_port(f"unix-abstract:{self._address}")
                await server.start()
                self._server = server
        return self._address

    async def stop(self, grace_s: float) -> None:
        """End calls that still run after `grace_s`, and every connection."""
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + 1):
                    await self._server.stop(grace_s)
