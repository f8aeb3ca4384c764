"""The pool as a cluster has it, for churn: a coordinator and an agent that dials it, each killed alone."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from processes import free_port

from churn_harness.pool import END_DEADLINE_S, START_DEADLINE_S, ChurnPool


@dataclass
class ApartChurnPool(ChurnPool):
    """`process` is the coordinator. `starts` and `logs` are the agent's: engines are its children."""

    door: int = field(default_factory=free_port)
    coordinator_logs: list[Path] = field(default_factory=list)

    async def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if not self._token.exists():
            self._token.write_text(secrets.token_hex(32))
        self.start_coordinator()
        await self.start_agent()

    def start_coordinator(self) -> None:
        self.coordinator_logs.append(self.folder / f"coordinator-{len(self.coordinator_logs) + 1}.log")
        argv = ["--role=coordinator", f"--listen=tcp://127.0.0.1:{self.port}", "--lease_expires_s=6"]
        argv += [f"--agents_listen=tcp://127.0.0.1:{self.door}", f"--token_file={self._token}", *self.flags]
        self.process = self._spawned(argv, self.coordinator_logs[-1])

    async def start_agent(self) -> None:
        """Returns when its slots can be used."""
        self.starts += 1
        self.logs.append(self.folder / f"pool-{self.starts}.log")
        argv = ["--role=agent", "--agent_name=n0", f"--coordinator=http://127.0.0.1:{self.door}"]
        argv += [f"--token_file={self._token}", "--listen=tcp://127.0.0.1:0", f"--run_dir={self.run_dir}"]
        argv += ["--model_root=/", f"--work_dir={self.folder / 'work'}", f"--store={self.store_dir}"]
        argv += [f"--slot=cpu:{number}=2GiB" for number in range(self.slots)]
        self.agent = self._spawned(argv, self.logs[-1])
        await self.until_registered()

    async def until_registered(self) -> None:
        end_s = time.monotonic() + START_DEADLINE_S
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/v1/slots") as answer:
                        slots = (await answer.json())["slots"]
                        if len(slots) == self.slots and not any(slot["absent"] for slot in slots):
                            return
                if time.monotonic() > end_s:
                    raise RuntimeError(f"the agent did not register:\n{self.logs[-1].read_text()[-3000:]}")
                await asyncio.sleep(0.05)

    def all_logs(self) -> list[Path]:
        return [*self.logs, *self.coordinator_logs]

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()

    def kill_coordinator(self) -> None:
        self.process.kill()
        self.process.wait()

    async def kill(self) -> list[int]:
        self.kill_agent()
        self.kill_coordinator()
        return await self._left()

    async def stop(self) -> list[int]:
        self.agent.terminate()
        self.process.terminate()
        try:
            await asyncio.to_thread(self.agent.wait, END_DEADLINE_S)
            await asyncio.to_thread(self.process.wait, END_DEADLINE_S)
        finally:
            self.agent.kill()
            self.process.kill()
        return await self._left()

    @property
    def _token(self) -> Path:
        return self.folder / "token"
