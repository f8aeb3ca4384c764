"""One look at a pod for a probe: HTTP, TCP or a command; a gRPC probe only sees whether the port accepts connections.

Must not: repeat itself, or remember anything.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from pilotlight_local.pods.loopback_ports import LOOPBACK
from pilotlight_specs import Probe

LARGEST_REASON_BYTES = 4096
LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Probed:
    """`why_not`: what the pod itself says of it, "" where it says nothing."""

    succeeded: bool
    why_not: str = ""


def new_probe_session() -> aiohttp.ClientSession:
    """The client that probes pods; the caller closes it."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())


async def look(session: aiohttp.ClientSession, probe: Probe, port: int, env: Mapping[str, str]) -> Probed:
    """Whether the pod on `port` passes now; a probe that breaks or takes too long fails. Commands run with `env`, the
    pod's own: they are its tenant's, and this process's environment is not."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            if probe.kind == "http":
                return await _get(session, port, probe.path, dict(probe.headers))
            if probe.kind == "exec":
                return Probed(await _command_succeeds(probe.command, env))
            return Probed(await _accepts_connections(port))
    except (OSError, aiohttp.ClientError, TimeoutError):
        return Probed(False)


async def _get(session: aiohttp.ClientSession, port: int, path: str, headers: dict[str, str]) -> Probed:
    headers = {"Connection": "close", "User-Agent": "kube-probe/pilotlight", **headers}
    async with session.get(f"http://{LOOPBACK}:{port}{path}", headers=headers, allow_redirects=False) as answer:
        if 200 <= answer.status < 400:
            return Probed(True)
        return Probed(False, reason_in(await answer.content.read(LARGEST_REASON_BYTES)))


def reason_in(body: bytes) -> str:
    """The message of a V2 error, as Pilotlight's components and others answer a probe; "" for any other body."""
    try:
        message = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return " ".join(message.split())[:LONGEST_REASON] if isinstance(message, str) else ""


async def _accepts_connections(port: int) -> bool:
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _command_succeeds(command: tuple[str, ...], env: Mapping[str, str]) -> bool:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(env),
    )
    try:
        return await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
