"""One readiness probe of a pod: HTTP, TCP or a command; a gRPC probe only looks whether the port accepts connections.

Must not: repeat itself, or remember anything.
"""

import asyncio
import contextlib

import aiohttp

from pilotlight_local.loopback_ports import LOOPBACK
from pilotlight_local.resources import Probe


async def is_ready(session: aiohttp.ClientSession, probe: Probe, port: int) -> bool:
    """Whether the pod on `port` is ready now; a probe that fails, breaks or takes too long says no."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            if probe.kind == "http":
                status = await _http_status(session, port, probe.path, dict(probe.headers))
                return 200 <= status < 400
            if probe.kind == "exec":
                return await _command_succeeds(probe.command)
            return await _accepts_connections(port)
    except (OSError, aiohttp.ClientError, TimeoutError):
        return False


async def _http_status(session: aiohttp.ClientSession, port: int, path: str, headers: dict[str, str]) -> int:
    headers = {"Connection": "close", "User-Agent": "kube-probe/pilotlight", **headers}
    async with session.get(f"http://{LOOPBACK}:{port}{path}", headers=headers, allow_redirects=False) as answer:
        return answer.status


async def _accepts_connections(port: int) -> bool:
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _command_succeeds(command: tuple[str, ...]) -> bool:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        return await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
