"""One worker as the server holds it: a process, a socket to it, and at most one piece of work at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence

from pilotlight_engine.process.limited_worker import BEGUN, HEADER
from pilotlight_text.templates.limited_process import ProcessLimits, command, ended

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
_REAP_DEADLINE_S = 5.0
_START_DEADLINE_S = 30.0


class WorkerConnection(asyncio.Protocol):
    """`known`: digests of the templates whose source it has been sent. Belongs to one event loop."""

    def __init__(self, process: Process, limits: ProcessLimits) -> None:
        self.known: set[str] = set()
        self.ended = False
        self._process = process
        self._limits = limits
        self._buffer = bytearray()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: asyncio.Future[bytes] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._too_late = False
        self._transport: asyncio.WriteTransport | None = None
        self._ending: asyncio.Task[None] | None = None

    async def begun(self) -> None:
        """Returns when it can work. Raises OSError: it ended before, or takes too long."""
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await self._begun
        except TimeoutError:
            raise OSError(errno.ETIME, f"a process did not start within {_START_DEADLINE_S:g} s") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, job: bytes, limits: ProcessLimits | None = None) -> asyncio.Future[bytes]:
        """The answer to come. It fails with ProcessEnded; whoever waits for it may go, the worker ends it alone.

        `limits`: of this job, where each has its own.
        """
        assert self._answer is None
        if limits is not None:
            self._limits = limits
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._deadline = loop.call_later(self._limits.wall_s, self._is_late)
        self._transport.writelines((HEADER.pack(len(job)), job))
        return self._answer

    def _is_late(self) -> None:
        self._too_late = True
        self.kill()

    def kill(self) -> None:
        """Only while its socket is open: a process that has not been waited for keeps its id."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if not self.ended:
            self.kill()
        async with asyncio.timeout(_REAP_DEADLINE_S):
            await self._process.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < HEADER.size:
            return
        if not self._begun.done():
            if self._buffer == BEGUN:
                self._buffer.clear()
                self._begun.set_result(None)
            else:
                self.kill()
            return
        end = HEADER.size + HEADER.unpack_from(self._buffer)[0]
        if end > ANSWER_LIMIT_BYTES or len(self._buffer) > end or self._answer is None:
            self.kill()  # it speaks out of turn
        elif len(self._buffer) == end:
            answer, self._answer = self._answer, None
            body = bytes(memoryview(self._buffer)[HEADER.size :])
            self._buffer.clear()
            self._stop_clock()
            answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self._begun.done():
            self._begun.set_exception(OSError(errno.EPIPE, "a process ended as it started"))
        self._stop_clock()
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        """Tell who waits why it ended, which the kernel says once the process is gone."""
        try:
            async with asyncio.timeout(_REAP_DEADLINE_S):
                status = await self._process.wait()
        except TimeoutError:  # it closed its socket and lives on
            self._too_late = True
            self.kill()
            status = await self._process.wait()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(ended(None if self._too_late else status, self._limits))

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


async def start_worker(limits: ProcessLimits) -> WorkerConnection:
    """Of templates."""
    return await started(command("render", limits), limits)


async def started(command_line: Sequence[str], limits: ProcessLimits) -> WorkerConnection:
    """Returns when the process can work: how long it took to start is no fault of what it is asked first."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command_line, stdin=theirs.fileno(), stdout=DEVNULL, stderr=DEVNULL, env={}
            )
        ours.setblocking(False)
        connection = WorkerConnection(process, limits)
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=ours)
    except BaseException:
        ours.close()
        raise
    try:
        await connection.begun()
    except BaseException:
        await connection.close()
        raise
    return connection
