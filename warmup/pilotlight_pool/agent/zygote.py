"""The pre-imported process that forks engine hosts, kept alive: started at once, started again when it ends.

Hosts die with it (PR_SET_PDEATHSIG), and it dies with us. Fork requests wait for its imports; those that were under way
when it ended fail, and the coordinator tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from pilotlight_engine.process.process_group import how_it_ended
from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent_port import EngineGone
from pilotlight_protocol import back_off
from pilotlight_protocol.engine_frames import Fork, Forked, ForkFailed, HostConfig, HostExited, ZygoteFrame, ZygoteReady
from pilotlight_protocol.frame_codec import FrameSplitter, encode

log = logging.getLogger(__name__)
_BACK_OFF = back_off.BackOff(first_s=0.5, longest_s=30.0, forgotten_after_s=60.0, free=1)
_END_GRACE_S = 3.0
ZYGOTE_MODULE = "pilotlight_engine.host.zygote"


@dataclass(frozen=True)
class ZygoteSettings:
    """`environment` is the whole environment of zygote and engines. `argv` is followed by the
    socket's number and `arguments`. `usual_import_s`: expected until it was measured (vLLM on 2 cores)."""

    environment: Mapping[str, str]
    argv: tuple[str, ...] = (sys.executable, "-m", ZYGOTE_MODULE)
    arguments: tuple[str, ...] = ()
    import_deadline_s: float = 180.0
    usual_import_s: float = 10.0


class Zygote:
    """`run` until cancelled, which ends the process and every engine with it."""

    def __init__(self, settings: ZygoteSettings) -> None:
        self._settings = settings
        self._sock: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = False
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._import_s = settings.usual_import_s
        self._ready_at_s = time.monotonic() + self._import_s
        self._forking: dict[str, EngineProcess] = {}
        self._forked: dict[int, EngineProcess] = {}

    @property
    def is_ready(self) -> bool:
        return self._ready

    def ready_in_s(self) -> float:
        """Predicted from its last start; a start that takes longer than the last is expected to end any moment."""
        return 0.0 if self.is_ready else max(0.1, self._ready_at_s - time.monotonic())

    @property
    def starting_pid(self) -> int | None:
        """Of the process while it imports, or while somebody waits for a fork."""
        return self._process.pid if self._process is not None and (self._forking or not self._ready) else None

    def kill_because(self, reason: str) -> None:
        """Its engines end with it; it is started again as after any other end."""
        if self._process is not None:
            log.warning("the zygote (pid %d) is killed: %s", self._process.pid, reason)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait_ready(self) -> None:
        """Raises EngineGone when this start of it fails, or takes too long."""
        try:
            async with asyncio.timeout(self._settings.import_deadline_s):
                failure = await asyncio.shield(self._started)
        except TimeoutError:
            raise EngineGone(f"the zygote was not ready within {self._settings.import_deadline_s:g} s") from None
        if failure:
            raise EngineGone(failure)

    def fork(self, config: HostConfig, process: EngineProcess, control: socket.socket, output_fd: int) -> None:
        """Hand both descriptors to a new engine host. Raises EngineGone; what becomes of it is told to `process`."""
        if self._sock is None:
            raise EngineGone("the zygote has just ended")
        self._forking[config.slot] = process
        try:
            socket.send_fds(self._sock, [bytes(encode(Fork(config)))], [control.fileno(), output_fd])
        except OSError as error:
            del self._forking[config.slot]
            raise EngineGone(f"the zygote takes no requests: {error}") from error

    async def run(self) -> None:
        failures = back_off.Failures()
        while True:
            began_s = time.monotonic()
            code = await self._live()
            ended_s = time.monotonic()
            failures = back_off.failed(_BACK_OFF, failures, ended_s, ended_s - began_s)
            delay_s = failures.wait_s(ended_s)
            self._ready_at_s = failures.not_before_s + self._import_s
            log.warning("the zygote ended with %s; it is started again in %.1f s", code, delay_s)
            await asyncio.sleep(delay_s)

    async def _live(self) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._settings.argv,
                str(theirs.fileno()),
                *self._settings.arguments,
                pass_fds=(theirs.fileno(),),
                env=dict(self._settings.environment),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        self._sock, self._process = ours, process
        try:
            await self._read(ours)
        finally:
            if not self._started.done():
                self._started.set_result("the zygote ended before it was ready; its output in the log says why")
            self._started = asyncio.get_running_loop().create_future()
            self._ready = False
            self._sock = self._process = None
            ours.close()
            for waiting in self._forking.values():
                waiting.not_started("the zygote ended before it had forked")
            self._forking.clear()
            self._forked.clear()
            await _end(process)
        return process.returncode or 0

    async def _read(self, ours: socket.socket) -> None:
        loop, splitter, decoder = asyncio.get_running_loop(), FrameSplitter(), msgspec.msgpack.Decoder(ZygoteFrame)
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(ours, 65536):
                for body in splitter.feed(data):
                    self._hear(decoder.decode(body))

    def _hear(self, frame: ZygoteFrame) -> None:
        match frame:
            case ZygoteReady(pid, import_s):
                log.info("the zygote (pid %d) is ready, its imports took %.2f s", pid, import_s)
                self._import_s = import_s
                self._ready = True
                self._started.set_result("")
            case Forked(slot, pid):
                if (process := self._forking.pop(slot, None)) is not None:
                    log.info("the engine of %s is pid %d", slot, pid)
                    self._forked[pid] = process
                    process.watch(pid)
            case ForkFailed(slot, reason):
                if (process := self._forking.pop(slot, None)) is not None:
                    process.not_started(reason)
            case HostExited(slot, pid, code):
                process = self._forked.pop(pid, None)
                # The loss itself was told when its socket closed; that must not wait for this.
                level = logging.WARNING if process is not None and process.ends_unasked else logging.INFO
                log.log(level, "the engine of %s (pid %d) %s", slot, pid, how_it_ended(code))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Its socket is closed, so it ends by itself; if not, it is killed, and the kernel kills its engines."""
    try:
        async with asyncio.timeout(_END_GRACE_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
