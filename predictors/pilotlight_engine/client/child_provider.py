"""The first engine provider: an engine host as a child process of the predictor.

The child is the host of a pool's slot (host/engine_host.py): a fresh exec, since we have threads and must not fork,
with its ends of two socket pairs and nothing else of ours. We are its agent on the one (client/host_control.py), and on
the other the holder of the only lease it ever has. It leads its own process group and ends with us: by `Shutdown`, by
the closed socket, or by the kernel (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilotlight_engine.client.engine_client import EngineClient
from pilotlight_engine.client.host_control import HostControl
from pilotlight_engine.contract import Engine
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.process.process_group import how_it_ended, kill_group
from pilotlight_protocol import back_off
from pilotlight_protocol.engine_frames import Boot, HostConfig, Shutdown
from pilotlight_protocol.errors import Unavailable

# Lower than Kubernetes' crash back-off (10 s to 300 s): somebody waits for this endpoint.
BACK_OFF = back_off.BackOff(first_s=1.0, longest_s=60.0, forgotten_after_s=120.0)
_REAP_DEADLINE_S = 5.0
_HOST_MODULE = "pilotlight_engine.host.engine_host"


@dataclass(frozen=True)
class ChildSettings:
    """What to run and how long to wait for it.

    `environment` is the child's whole environment (environment.engine_environment). `startup_deadline_s`: exec to first
    token. `shutdown_grace_s`: Shutdown to SIGKILL. `call_deadline_s`: for metrics and checks, longer than a step.
    """

    config: HostConfig
    environment: Mapping[str, str]
    startup_deadline_s: float = 600.0
    shutdown_grace_s: float = 10.0
    call_deadline_s: float = 30.0
    back_off: back_off.BackOff = BACK_OFF
    argv: tuple[str, ...] = (sys.executable, "-m", _HOST_MODULE)


class ChildEngineProvider:
    """Implements `contract.EngineProvider` with at most one child at a time. Belongs to one event loop.

    `acquire` waits for the back-off after failures, then boots; `phase` says meanwhile what it is doing. A lost engine
    must be released like any other; the next `acquire` boots a new one.
    """

    def __init__(self, settings: ChildSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.phase = "idle"
        self._settings = settings
        self._clock = clock
        self._failures = back_off.Failures()
        self._child: _Child | None = None
        self._ready_since_s = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return self._child.process.pid if self._child is not None else None

    async def acquire(self) -> Engine:
        """Boot an engine. Raises Unavailable (it failed to start; try again), EngineMisconfigured (it never will)."""
        if self._child is not None:
            raise Unavailable("this predictor's engine is in use")
        delay_s = self._failures.wait_s(self._clock())
        if delay_s > 0.0:
            self._enter(f"back-off of {delay_s:.0f} s after {self._failures.count} failures")
            await asyncio.sleep(delay_s)
        self._enter("start")
        child = self._child = await _Child.start(self._settings, self._enter)
        try:
            await child.wait_ready(self._settings.startup_deadline_s)
        except BaseException as error:
            if isinstance(error, Unavailable):
                self._note_failure(0.0)
            await self._end(child)
            raise
        self._ready_since_s = self._clock()
        self._enter("ready")
        child.client.lost.add_done_callback(lambda _: self._note_failure(self._clock() - self._ready_since_s))
        return child.client

    async def release(self, engine: Engine) -> None:
        """End the child within the grace period; returns when it and its workers are gone."""
        if self._child is not None and engine is self._child.client:
            await self._end(self._child)

    async def _end(self, child: _Child) -> None:
        try:
            await asyncio.shield(child.end(self._settings.shutdown_grace_s))
        finally:
            self._child = None
            self._enter("idle")

    def _note_failure(self, ran_s: float) -> None:
        self._failures = back_off.failed(self._settings.back_off, self._failures, self._clock(), ran_s)

    def _enter(self, phase: str) -> None:
        self.phase = phase


class _Child:
    """One host process, our ends of its sockets, and the two tasks that watch it. `end` ends all of them."""

    def __init__(self, process: asyncio.subprocess.Process, control: HostControl, client: EngineClient) -> None:
        self.process = process
        self.client = client
        self._control = control
        self._ending = False
        self._forwarding = asyncio.create_task(self._forward_output(), name="engine-host-output")
        self._watching = asyncio.create_task(self._watch(), name="engine-host-watch")

    @classmethod
    async def start(cls, settings: ChildSettings, on_phase: Callable[[str], None]) -> _Child:
        (control, control_theirs), (data, data_theirs) = socket.socketpair(), socket.socketpair()
        try:
            with control_theirs, data_theirs:
                process = await asyncio.create_subprocess_exec(
                    *settings.argv,
                    str(control_theirs.fileno()),
                    f"--data_fd={data_theirs.fileno()}",
                    pass_fds=(control_theirs.fileno(), data_theirs.fileno()),
                    env=dict(settings.environment),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
        except BaseException:
            control.close()
            data.close()
            raise
        child = cls(process, HostControl(on_phase), EngineClient(settings.call_deadline_s))
        try:
            await child._connect(control, data, settings.config)
        except BaseException:
            child.client.lose("the engine host could not be told what to run")
            child.client.disconnected.set()
            await asyncio.shield(child.end(0.0))
            control.close()
            data.close()
            raise
        return child

    async def _connect(self, control: socket.socket, data: socket.socket, config: HostConfig) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._control, sock=control)
        await loop.create_connection(lambda: self.client, sock=data)
        self._control.send(Boot(config))

    async def wait_ready(self, deadline_s: float) -> None:
        waiting: set[asyncio.Future[None] | asyncio.Future[str]] = {self.client.ready, self.client.lost}
        done, _ = await asyncio.wait(waiting, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if self.client.lost in done:
            report = self._control.exit_report
            if report is not None and report.misconfigured:
                raise EngineMisconfigured(report.reason)
            raise Unavailable(self.client.lost.result())
        if self.client.ready not in done:
            raise Unavailable(f"the engine was not ready within {deadline_s:g} s; its output in the log says why")

    async def end(self, grace_s: float) -> None:
        self._ending = True
        if not self.client.lost.done():
            with contextlib.suppress(Unavailable):
                self._control.send(Shutdown())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self.process.wait()
        kill_group(self.process.pid)
        await self._watching
        self._control.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REAP_DEADLINE_S):
                await self._forwarding

    async def _watch(self) -> None:
        """Turn the end of the process, or of its connections, into `lost` with a reason a person can act on."""
        exited = asyncio.create_task(self.process.wait())
        closed = [asyncio.create_task(event.wait()) for event in (self._control.closed, self.client.disconnected)]
        try:
            await asyncio.wait({exited, *closed}, return_when=asyncio.FIRST_COMPLETED)
            # A process that closed a socket is ending, and one that ended has closed both: hear all of it.
            await asyncio.wait({exited, *closed}, timeout=_REAP_DEADLINE_S)
            kill_group(self.process.pid)
            code = await exited
        finally:
            for waiting in (exited, *closed):
                waiting.cancel()
        await asyncio.wait({self._forwarding}, timeout=_REAP_DEADLINE_S)
        self.client.lose(self._reason(code))

    def _reason(self, code: int) -> str:
        if self._ending:
            return "the engine was released"
        if self._control.exit_report is not None:
            return f"the engine failed: {self._control.exit_report.reason}"
        return f"the engine host {how_it_ended(code)}"

    async def _forward_output(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while chunk := await stream.read(64 * 1024):
            sys.stderr.write(chunk.decode(errors="replace"))
