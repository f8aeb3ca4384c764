"""A pod as a process: starts it under `process_init.py`, asks it to end, reads its log.

Nothing is inherited: the pod gets exactly the argv and environment of its command, its working directory and its log
file. It dies with the platform, with everything it started. Must not: decide when a pod starts, restarts or ends.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pilotlight_local.pods import process_init

LOG_LIMIT_BYTES = 8 << 20
START_TIMEOUT_S = 20.0
ORPHAN_SWEEPS = 100
ORPHAN_SWEEP_PERIOD_S = 0.01
INIT_SCRIPT = Path(process_init.__file__)


class PodProcess:
    """One running container; `start` makes it, `stop` or its own exit ends it."""

    _init_pids: ClassVar[set[int]] = set()

    def __init__(self, init: asyncio.subprocess.Process, control: asyncio.StreamWriter, log_path: Path) -> None:
        self._init = init
        self._control = control
        self.log_path = log_path
        self.pid = 0
        self.exit_code: int | None = None
        self._exited = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._init_pids.add(init.pid)

    @classmethod
    async def start(cls, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log_path: Path) -> "PodProcess":
        """Start `argv` with `env` alone. Raises OSError or TimeoutError when not even the pod's init comes up."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, log_path.open("ab") as log:
                init = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-S",
                    str(INIT_SCRIPT),
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    env={},
                    start_new_session=True,
                )
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        pod = cls(init, writer, log_path)
        order = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log_path": str(log_path),
            "log_limit_bytes": LOG_LIMIT_BYTES,
        }
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                writer.write(json.dumps(order).encode() + b"\n")
                answer = await reader.readline()
            if not answer:
                raise OSError(f"the init of the pod ended before it started anything; see {log_path}")
            pod.pid = json.loads(answer)["pid"]
        except BaseException:
            cls._init_pids.discard(init.pid)
            writer.close()
            with contextlib.suppress(ProcessLookupError):
                init.kill()
            raise
        pod._watcher = asyncio.create_task(pod._watch(reader))
        return pod

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        try:
            exit_code = None
            with contextlib.suppress(ConnectionError):
                if line := await reader.readline():
                    exit_code = json.loads(line)["exit_code"]
            await self._init.wait()
            PodProcess._init_pids.discard(self._init.pid)
            if exit_code is None:
                await kill_all_orphans(PodProcess._init_pids)
            self.exit_code = 128 + signal.SIGKILL if exit_code is None else exit_code
        finally:
            self._control.close()
            self._exited.set()

    @property
    def init_pid(self) -> int:
        """Pid of the pod's init, the parent of its container."""
        return self._init.pid

    async def wait(self) -> int:
        """The container's exit code (128 + n when signal n ended it), once all of the pod is gone."""
        await self._exited.wait()
        assert self.exit_code is not None
        return self.exit_code

    def _order(self, order: bytes) -> None:
        if not self._exited.is_set() and not self._control.is_closing():
            self._control.write(order + b"\n")

    async def stop(self, grace_s: float) -> int:
        """SIGTERM, then after `grace_s` SIGKILL to the whole pod; returns the exit code."""
        self._order(b"term")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                return await self.wait()
        self.kill()
        return await self.wait()

    def kill(self) -> None:
        """SIGKILL to the whole pod, now; see `wait`."""
        self._order(b"kill")

    def log_tail(self, lines: int) -> list[str]:
        """The last lines the container wrote."""
        return read_log_tail(self.log_path, lines)


def read_log_tail(path: Path, lines: int, window_bytes: int = 64 << 10) -> list[str]:
    """Last `lines` lines of a log, looking at most `window_bytes` back; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - window_bytes))
            return [line.decode(errors="replace") for line in deque(log.read().splitlines(), maxlen=lines)]
    except FileNotFoundError:
        return []


def adopt_orphans() -> None:
    """Make this process the parent of last resort of everything it starts (Linux subreaper)."""
    process_init.set_process_option(process_init.PR_SET_CHILD_SUBREAPER, 1)


async def kill_all_orphans(init_pids: set[int]) -> None:
    """End what a pod left behind whose init was itself killed: our children that are no pod's init, and theirs."""
    for _ in range(ORPHAN_SWEEPS):
        orphans = [pid for pid in process_init.children(os.getpid()) if pid not in init_pids]
        if not orphans:
            return
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)  # noqa: ASYNC222 - it was killed, this takes no time
        # The children of those that just ended become ours.
        await asyncio.sleep(ORPHAN_SWEEP_PERIOD_S)
