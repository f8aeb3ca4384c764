"""The warm pool beside the embedded platform: one supervised `python -m pilotlight_pool` on a private Unix socket.

It starts with the first endpoint that can lease from it and not before, since an engine host that has imported vLLM
costs some 600 MB even when nobody asks anything. It ends with the platform, also when that is killed. Must not: know
what a lease means; it passes on what the pool says about itself.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from pilotlight_local.pods.crash_backoff import PodEnd, crashed
from pilotlight_local.pods.log_watch import LogWatch
from pilotlight_local.pods.process_pod import PodProcess
from pilotlight_protocol.back_off import BackOff, Failures

SOCKET_NAME = "pool.sock"
# An engine's socket lies in the same folder, and the kernel takes 107 bytes for its path.
LONGEST_RUN_DIR_BYTES = 60
BACK_OFF = BackOff(first_s=1.0, longest_s=30.0, forgotten_after_s=60.0)
RAN_WELL_S = 10.0
STATUS_TIMEOUT_S = 2.0
FAILURE_LOG_LINES = 10
LOG_PERIOD_S = 1.0


@dataclass(frozen=True)
class WarmPoolSettings:
    """`folder`: for sockets and log, ours alone. `slots`: engines at a time, sharing `memory_bytes`."""

    folder: Path
    slots: int
    memory_bytes: int
    python: str
    model_store: Path
    env: Mapping[str, str]


class WarmPool:
    """`url` does not change while the platform lives, so a pool that is started again is found by those who hold it."""

    def __init__(self, settings: WarmPoolSettings, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._run_dir = settings.folder / "run"
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if len(bytes(self._run_dir)) > LONGEST_RUN_DIR_BYTES:
            self._temporary = tempfile.TemporaryDirectory(prefix="pilotlight-")
            self._run_dir = Path(self._temporary.name)
        self._process: PodProcess | None = None
        self._supervising: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._run_dir / SOCKET_NAME}"

    @property
    def log_path(self) -> Path:
        return self._settings.folder / "logs" / "pool.log"

    def start(self) -> None:
        """Start it if it is not started yet; returns at once. Early callers wait at its socket."""
        if self._supervising is None:
            self._supervising = asyncio.create_task(self._supervise(), name="warm pool")

    async def describe(self) -> dict[str, Any]:
        """`{"state": "off|starting|importing|ready", "slots": [...], "leases": [...]}`, the lists in the pool's words.

        `importing`: leases are taken already, an engine waits for the imports. `ready`: it takes a fork.
        """
        if self._supervising is None:
            return {"state": "off", "slots": [], "leases": []}
        connector = aiohttp.UnixConnector(str(self._run_dir / SOCKET_NAME))
        timeout = aiohttp.ClientTimeout(total=STATUS_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                slots = await _get(session, "/v1/slots")
                leases = await _get(session, "/v1/leases")
                async with session.get("http://pool/readyz") as answer:
                    state = "ready" if answer.status == HTTPStatus.OK else "importing"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return {"state": "starting", "slots": [], "leases": []}
        return {"state": state, "slots": slots.get("slots", []), "leases": leases.get("leases", [])}

    async def close(self, grace_s: float) -> None:
        """End it and every engine it has; returns when they are gone."""
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.wait({self._supervising})
        if self._process is not None:
            await self._process.stop(grace_s)
        if self._temporary is not None:
            self._temporary.cleanup()

    async def _supervise(self) -> None:
        failures = Failures()
        while True:
            ended = await self._run_once()
            now_s = time.monotonic()
            failures = crashed(failures, ended, now_s, BACK_OFF)
            await asyncio.sleep(failures.wait_s(now_s))

    async def _run_once(self) -> PodEnd:
        began_s = time.monotonic()
        try:
            await asyncio.to_thread(self._make_folders)
            log_watch = LogWatch(self.log_path, levels=("WARNING", "ERROR", "CRITICAL"))
            process = await PodProcess.start(self._argv(), self._settings.env, self._run_dir, self.log_path)
        except (OSError, TimeoutError) as error:
            self._tell(f"warm pool: cannot be started: {error}")
            return PodEnd(0.0)
        self._process = process
        telling = asyncio.create_task(self._tell_warnings(log_watch), name="warm pool's warnings")
        try:
            exit_code = await process.wait()
        finally:
            telling.cancel()
        self._process = None
        lived_s = time.monotonic() - began_s
        self._tell(f"warm pool: ended with code {exit_code} after {lived_s:.0f} s; it is started again")
        for line in process.log_tail(FAILURE_LOG_LINES):
            self._tell(f"    | {line}")
        return PodEnd(lived_s, was_ready=lived_s > RAN_WELL_S)

    async def _tell_warnings(self, log_watch: LogWatch) -> None:
        """Pass on what the pool warns of: an engine that died, a zygote that is started again."""
        while True:
            await asyncio.sleep(LOG_PERIOD_S)
            for message in log_watch.news():
                self._tell(f"warm pool: {message}")

    def _argv(self) -> list[str]:
        settings = self._settings
        share_mib = settings.memory_bytes // settings.slots >> 20
        slots = [f"--slot=cpu:{number}={share_mib}MiB" for number in range(settings.slots)]
        argv = [settings.python, "-m", "pilotlight_pool", f"--listen={self.url}", f"--run_dir={self._run_dir}"]
        return [*argv, *slots, f"--store={settings.model_store}"]

    def _make_folders(self) -> None:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self._run_dir / SOCKET_NAME).unlink()


async def _get(session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with session.get(f"http://pool{path}") as response:
        response.raise_for_status()
        content = await response.json()
    return content if isinstance(content, dict) else {}
