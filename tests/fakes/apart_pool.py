"""A warm pool in several processes: one coordinator, agents that dial it, and a way to kill each alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
from server_ports import free_port
from waiting import until_async
from warmup_pool import Pool, children_marked

START_DEADLINE_S = 30.0
GONE_DEADLINE_S = 30.0


class Service:
    """One process of the pool; `kill` it, `start` it again with the same addresses."""

    def __init__(self, folder: Path, name: str, argv: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.starts = 0
        self._argv = argv
        self._mark = f"PILOTLIGHT_TEST_APART={folder / name}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        name, _, value = self._mark.partition("=")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._argv], stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {name: value},
            )  # fmt: skip

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}-{self.starts}.log"

    def log(self) -> str:
        return self.log_path.read_text()

    def kill(self) -> None:
        """SIGKILL, as a crash or a lost node; returns when it is reaped."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        """SIGSTOP: alive, and silent as behind a cut cable."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def left(self) -> list[int]:
        """Processes it has started that are still there."""
        assert self.process is not None
        return children_marked(self._mark.encode(), self.process.pid)

    def engine_pid(self) -> int:
        return int(re.findall(r"the engine of \S+ is pid (\d+)", self.log())[-1])


class ApartPool(Pool):
    """The lease API of a coordinator with `agents` agents of one slot each, named n0, n1, …

    `argv`: what runs the service, as in `warmup_pool.Pool`. `token`: what the agents present; None for the right one.
    """

    def __init__(
        self,
        folder: Path,
        *argv: str,
        agents: int = 2,
        slot: str = "cpu:0=2GiB",
        coordinator_flags: tuple[str, ...] = (),
        agent_flags: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self._argv_start, self._slot, self._agent_flags = list(argv), slot, agent_flags
        port, door = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.door = f"http://127.0.0.1:{door}"
        self.token_file = folder / "token"
        self.token_file.write_text(secrets.token_hex(32) + "\n")
        self.coordinator = Service(
            folder,
            "coordinator",
            [*argv, "--role=coordinator", f"--listen=tcp://127.0.0.1:{port}"]
            + [f"--agents_listen=tcp://127.0.0.1:{door}", f"--token_file={self.token_file}", *coordinator_flags],
        )
        self.agents = [self.new_agent(f"n{number}") for number in range(agents)]

    def new_agent(self, name: str, token_file: Path | None = None) -> Service:
        return Service(
            self.folder,
            name,
            [*self._argv_start, "--role=agent", f"--agent_name={name}", f"--coordinator={self.door}"]
            + [f"--token_file={token_file or self.token_file}", f"--run_dir={self.folder / name}"]
            + ["--listen=tcp://127.0.0.1:0", "--engine_host=127.0.0.1", f"--slot={self._slot}", "--drain_s=0"]
            + ["--model_root=/"]
            + list(self._agent_flags),
        )

    async def __aenter__(self) -> ApartPool:
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))
        for service in self.services():
            service.start()
        await self.registered(len(self.agents))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        for service in self.services():
            if service.process is not None and service.process.poll() is None:
                service.thaw()
                service.process.terminate()
        for service in self.services():
            assert service.process is not None
            try:
                await asyncio.to_thread(service.process.wait, 15)
            finally:
                service.process.kill()
        await self.until(lambda: not any(service.left() for service in self.services()), GONE_DEADLINE_S)

    def services(self) -> list[Service]:
        return [self.coordinator, *self.agents]

    def log(self) -> str:
        """Of every process, for a test that fails."""
        return "\n".join(f"==== {service.name}\n{service.log()[-3000:]}" for service in self.services())

    async def registered(self, count: int) -> None:
        """Returns once so many slots can be used."""

        async def enough() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                return sum(not slot["absent"] for slot in await self.slots()) == count
            return False

        await until_async(enough, START_DEADLINE_S, self.log)

    async def restart_coordinator(self) -> None:
        self.coordinator.kill()
        self.coordinator.start()

    async def agent_of(self, lease_id: str) -> Service:
        """Whose slot serves the lease."""
        (line,) = [
            line for line in (await self.call("GET", "/v1/leases")).body["leases"] if line["lease_id"] == lease_id
        ]
        return next(agent for agent in self.agents if agent.name == line["slot"].partition("/")[0])
