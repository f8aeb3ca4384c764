"""The warm pool beside the embedded platform: one supervised `python -m pilotlight_pool` on a private Unix socket.

It starts with the first endpoint that can lease from it and not before, since an engine host that has imported vLLM
costs some 600 MB even when nobody asks anything. It ends with the platform, also when that is killed. Must not: know
what a lease means; it passes on what the pool says about itself.
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from pilotlight_local.embedded.supervised_process import ProcessPlan, SupervisedProcess

SOCKET_NAME = "pool.sock"
# An engine's socket lies in the same folder, and the kernel takes 107 bytes for its path.
LONGEST_RUN_DIR_BYTES = 60
STATUS_TIMEOUT_S = 2.0
PROOF_TIMEOUT_S = 1800.0


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
        self._run_dir = settings.folder / "run"
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if len(bytes(self._run_dir)) > LONGEST_RUN_DIR_BYTES:
            self._temporary = tempfile.TemporaryDirectory(prefix="pilotlight-")
            self._run_dir = Path(self._temporary.name)
        plan = ProcessPlan("warm pool", self._argv(), settings.env, self._run_dir, self.log_path, self._make_folders)
        self._process = SupervisedProcess(plan, tell)

    @property
    def url(self) -> str:
        return f"unix://{self._run_dir / SOCKET_NAME}"

    @property
    def log_path(self) -> Path:
        return self._settings.folder / "logs" / "pool.log"

    def start(self) -> None:
        """Start it if it is not started yet; returns at once. Early callers wait at its socket."""
        self._process.start()

    async def describe(self) -> dict[str, Any]:
        """`{"state": "off|starting|importing|ready", "slots", "leases", "proofs", "unproven": [...]}`, the lists in the
        pool's words; the last two where it answers.

        `importing`: leases are taken already, an engine waits for the imports. `ready`: it takes a fork.
        """
        if not self._process.is_started:
            return {"state": "off", "slots": [], "leases": []}
        connector = aiohttp.UnixConnector(str(self._run_dir / SOCKET_NAME))
        timeout = aiohttp.ClientTimeout(total=STATUS_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                slots = await _get(session, "/v1/slots")
                leases = await _get(session, "/v1/leases")
                proofs = await _get(session, "/v1/proofs")
                async with session.get("http://pool/readyz") as answer:
                    state = "ready" if answer.status == HTTPStatus.OK else "importing"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return {"state": "starting", "slots": [], "leases": []}
        return {"state": state, **slots, **leases, **proofs}

    async def proofs(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the pool's answer to `method /v1/proofs`; 503 while there is none."""
        if self._process.is_started:
            connector = aiohttp.UnixConnector(str(self._run_dir / SOCKET_NAME))
            timeout = aiohttp.ClientTimeout(total=PROOF_TIMEOUT_S)
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with (
                    aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                    session.request(method, "http://pool/v1/proofs", data=body or None) as answer,
                ):
                    return answer.status, await answer.read()
        return 503, b'{"error": "the warm pool does not run; it starts with the first endpoint that uses it"}'

    async def close(self, grace_s: float) -> None:
        """End it and every engine it has; returns when they are gone."""
        await self._process.close(grace_s)
        if self._temporary is not None:
            self._temporary.cleanup()

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
