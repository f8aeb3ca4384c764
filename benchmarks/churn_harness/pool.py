"""What churn runs against and kills: the warm pool's service and thin predictors, which are started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from churn_harness.models import Endpoint

START_DEADLINE_S = 30.0
GONE_DEADLINE_S = 8.0
END_DEADLINE_S = 20.0
REAL_POOL = ("-m", "pilotlight_pool")


@dataclass
class ChurnPool:
    """One service at a fixed port, with a mark in its environment that finds whatever it leaves behind."""

    folder: Path
    port: int
    slots: int
    argv: tuple[str, ...] = REAL_POOL
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    starts: int = 0
    logs: list[Path] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def store_dir(self) -> Path:
        return self.folder / "store"

    def all_logs(self) -> list[Path]:
        return self.logs

    def watched(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    async def start(self) -> None:
        """Returns when it takes leases."""
        self.starts += 1
        self.folder.mkdir(exist_ok=True)
        self.logs.append(self.folder / f"pool-{self.starts}.log")
        slots = [word for number in range(self.slots) for word in ("--slot", f"cpu:{number}=2GiB")]
        argv = ["--listen", f"tcp://127.0.0.1:{self.port}", "--run_dir", str(self.run_dir)]
        flags = ["--lease_expires_s", "6", "--work_dir", str(self.folder / "work"), "--store", str(self.store_dir)]
        self.process = self._spawned([*argv, *slots, *flags, *self.flags], self.logs[-1])
        end_s = time.monotonic() + START_DEADLINE_S
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz") as answer:
                        if answer.status == 200:
                            return
                if self.process.poll() is not None or time.monotonic() > end_s:
                    raise RuntimeError(f"the warm pool did not start:\n{self.logs[-1].read_text()[-3000:]}")
                await asyncio.sleep(0.05)

    def _spawned(self, argv: list[str], log_path: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment, "PILOTLIGHT_TEST_CHURN": str(self.run_dir)}
        command = [sys.executable, *self.argv, *argv]
        with log_path.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    async def kill(self) -> list[int]:
        """SIGKILL; returns what is still there of it after GONE_DEADLINE_S."""
        self.process.kill()
        self.process.wait()
        return await self._left()

    async def stop(self) -> list[int]:
        """SIGTERM; returns what is left behind. Raises TimeoutExpired when it does not end."""
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, END_DEADLINE_S)
        finally:
            self.process.kill()
        return await self._left()

    def zygote(self) -> int | None:
        return _last_pid(r"the zygote \(pid (\d+)\) is ready", self.logs[-1])

    def engine(self, slot: int) -> int | None:
        """The pid of the slot's engine, None when it has none now."""
        pid = _last_pid(rf"the engine of (?:\S+/)?cpu:{slot}\S* is pid (\d+)", self.logs[-1])
        return pid if pid is not None and psutil.pid_exists(pid) else None

    async def _left(self) -> list[int]:
        end_s = time.monotonic() + GONE_DEADLINE_S
        while True:
            left = self._marked()
            if not left or time.monotonic() > end_s:
                return left
            await asyncio.sleep(0.05)

    def _marked(self) -> list[int]:
        mark = f"PILOTLIGHT_TEST_CHURN={self.folder / 'run'}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


class Restarted(ABC):
    """A process that is started again when it has ended, as the kubelet does. Its own process group's leader."""

    process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None: ...

    def keep_alive(self) -> bool:
        """Start it again when it has ended; returns whether it had."""
        if self.process is not None and self.process.poll() is None:
            return False
        self.start()
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def stop(self) -> bool:
        """SIGTERM; whether it ended by itself."""
        assert self.process is not None
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return False
        return True


@dataclass
class ThinPredictor(Restarted):
    """`python -m pilotlight_predictor --pool_url …` for one endpoint, as a pod would run it."""

    endpoint: Endpoint
    port: int
    pool_url: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/models/{self.endpoint.name}/generate_stream"

    def start(self) -> None:
        engine_args = [
            word for key, value in self.endpoint.engine_args.items() for word in ("--engine_arg", f"{key}={value}")
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pilotlight_predictor", "--host", "127.0.0.1", "--http_port", str(self.port)]
                + ["--model_name", self.endpoint.name, "--model_dir", str(self.endpoint.folder)]
                + [
                    "--tenant",
                    self.endpoint.tenant,
                    "--pool_url",
                    self.pool_url,
                    "--isolation",
                    self.endpoint.isolation,
                    "--lease_idle_s",
                    "0.5",
                    *engine_args,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _last_pid(pattern: str, log: Path) -> int | None:
    found = re.findall(pattern, log.read_text())
    return int(found[-1]) if found else None
