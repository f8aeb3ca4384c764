"""A real redis-server on a port of its own, that a test stops, kills and starts again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from server_ports import free_port, until_open
from waiting import until

MISSING = "these tests run a real redis-server: apt-get install redis-server"


class RedisServer:
    """`kept`: with an append-only file, so that a restart finds what was there."""

    def __init__(self, folder: Path, *, kept: bool = True) -> None:
        program = shutil.which("redis-server")
        assert program is not None, MISSING
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        kept_words = ["--appendonly", "yes", "--appendfsync", "everysec"] if kept else ["--appendonly", "no"]
        address = ["--port", str(self.port), "--bind", "127.0.0.1"]
        self._argv = [program, *address, "--dir", str(folder), "--save", "", *kept_words]
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._argv, stdout=output, stderr=subprocess.STDOUT)
        until_open(self.port, self._process)

    async def command(self, *words: Any) -> Any:
        client: Any = Redis.from_url(self.url)
        try:
            return await client.execute_command(*words)
        finally:
            await client.aclose()

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._gone()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._gone()

    def _gone(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        until(lambda: process.poll() is not None, what="redis-server ended")
