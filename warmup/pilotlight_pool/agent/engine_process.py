"""One engine host: the agent's end of its control socket, and its process. Knows nothing of leases' meaning.

Commands wait for the answer of their own kind; there is never more than one of a kind. When the control socket closes
or the process ends, everything that waits raises EngineGone, and `on_lost` is called once unless we ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from pilotlight_pool.agent.engine_output import EngineOutput
from pilotlight_pool.agent_port import EngineGone, EngineRefused, ExitReport, SwapFailed
from pilotlight_protocol.engine_frames import (
    AgentFrame,
    Booted,
    Busy,
    Check,
    Checked,
    ControlFrame,
    Examine,
    Examined,
    Failed,
    Grant,
    Granted,
    GrantRefused,
    Idle,
    Ping,
    Pong,
    Progress,
    Rejected,
    Revoke,
    Revoked,
    Shutdown,
    Sleep,
    Slept,
    Swap,
    Swapped,
    SwapRefused,
    Wake,
    Woken,
)
from pilotlight_protocol.engine_frames import SwapFailed as SwapFailedFrame
from pilotlight_protocol.errors import from_status
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.swap_proofs import EngineState

_SHUTDOWN_GRACE_S = 2.0
_REAP_DEADLINE_S = 10.0
_REPORT_DEADLINE_S = 0.5
_Answer = TypeVar("_Answer")
_ANSWERS: dict[str, type] = {
    "Grant": Granted, "Revoke": Revoked, "Swap": Swapped, "Sleep": Slept, "Wake": Woken, "Examine": Examined,
}  # fmt: skip


class EngineProcess(asyncio.Protocol):
    """`on_lost(report)` and `on_work(busy)` are called in the loop and must not block."""

    def __init__(
        self, output: EngineOutput, on_lost: Callable[[ExitReport], None], on_work: Callable[[bool], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.phase = "fork"
        self._output = output
        self._on_lost = on_lost
        self._on_work = on_work
        self._transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(ControlFrame)
        self._waiting: dict[type, asyncio.Future[object]] = {}
        self._booted: asyncio.Future[Booted] = loop.create_future()
        self._failed: Failed | None = None
        self._lost: asyncio.Future[ExitReport] = loop.create_future()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._pid: int | None = None
        self._pidfd: int | None = None
        self._ending = False
        self._lost_unasked = False
        self._gone: asyncio.Task[None] | None = None

    @property
    def ends_unasked(self) -> bool:
        """It ended, or is about to, without having been told to."""
        return self._lost_unasked or not self._ending

    @property
    def starting_pid(self) -> int | None:
        """Of the process, from its fork until it has booted or is lost."""
        return self._pid if not (self._booted.done() or self._exited.done() or self._lost.done()) else None

    def watch(self, pid: int) -> None:
        """The zygote says which process it is. A pidfd never means another process, whatever becomes of the pid."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._has_exited()
            return
        self._pid = pid
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_exited)

    def not_started(self, reason: str) -> None:
        """There is no process: the zygote could not fork, or ended first."""
        if self._pidfd is None and not self._exited.done():
            self._failed = self._failed or Failed(reason)
            self._has_exited()

    async def booted(self, deadline_s: float) -> Booted:
        """Raises EngineGone, EngineRefused."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._or_lost(self._booted)
        except TimeoutError:
            reason = f"not ready within {deadline_s:g} s, still in {self.phase}"
            raise EngineGone(ExitReport(reason, self._output.tail())) from None
        except EngineGone:
            if self._failed is not None and self._failed.misconfigured:
                raise EngineRefused(self._failed.reason) from None
            raise

    async def swap(self, frame: Swap, deadline_s: float) -> Swapped | SwapRefused:
        """Raises EngineGone, SwapFailed."""
        answer = await self._ask(frame, Swapped, deadline_s)
        if isinstance(answer, SwapFailedFrame):
            raise SwapFailed(answer.reason)
        return cast(Swapped | SwapRefused, answer)

    async def grant(self, frame: Grant, deadline_s: float) -> None:
        """Raises EngineGone; where its adapter is not loaded, InvalidInput if it never can be, else PilotlightError."""
        answer = await self._ask(frame, Granted, deadline_s)
        if isinstance(answer, GrantRefused):
            raise from_status(answer.status, answer.reason, param="adapter")

    async def revoke(self, frame: Revoke, deadline_s: float) -> None:
        await self._ask(frame, Revoked, deadline_s)

    async def sleep(self, frame: Sleep, deadline_s: float) -> None:
        await self._ask(frame, Slept, deadline_s)

    async def wake(self, frame: Wake, deadline_s: float) -> None:
        await self._ask(frame, Woken, deadline_s)

    async def examine(self, deadline_s: float) -> EngineState:
        """Of an engine that nobody holds. Raises EngineGone."""
        return cast(Examined, await self._ask(Examine(), Examined, deadline_s)).state

    async def ping(self, deadline_s: float) -> None:
        """Answered by the thread that reads sockets; a process that stands still is killed, and `on_lost` says so."""
        await self._ask(Ping(), Pong, deadline_s)

    async def check(self, deadline_s: float) -> None:
        """Answered by the thread that steps the engine; one that is stuck is killed, and `on_lost` says so."""
        await self._ask(Check(0), Checked, deadline_s)

    async def end(self) -> None:
        """Shutdown, then SIGKILL; returns when the process is gone."""
        self._ending = True
        if not self._lost.done() and not self._exited.done() and self._booted.done():
            self._send(Shutdown())
            await asyncio.wait({self._exited}, timeout=_SHUTDOWN_GRACE_S)
        self.kill()
        await asyncio.wait({self._exited}, timeout=_REAP_DEADLINE_S)
        if self._transport is not None:
            self._transport.abort()
        await self._output.ended(_REPORT_DEADLINE_S)
        self._output.close()
        if not self._exited.done():
            raise EngineGone(f"the engine process could not be ended within {_REAP_DEADLINE_S:g} s")

    def kill(self) -> None:
        if self._pidfd is not None and not self._exited.done():
            # The zygote may have reaped it before we hear of its end.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill_because(self, reason: str) -> None:
        """What waits for it, and `on_lost`, are told the reason."""
        self._failed = Failed(reason)
        self.kill()

    async def _ask(self, frame: AgentFrame, answer: type[_Answer], deadline_s: float) -> object:
        waiting: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = waiting
        try:
            self._send(frame)
            async with asyncio.timeout(deadline_s):
                return await self._or_lost(waiting)
        except TimeoutError:
            if waiting.done():
                # It was this process that stood still.
                return waiting.result()
            reason = f"no answer to {type(frame).__name__} within {deadline_s:g} s, so it was killed"
            self.kill_because(reason)
            raise EngineGone(reason) from None
        finally:
            del self._waiting[answer]

    async def _or_lost(self, wanted: asyncio.Future[_Answer]) -> _Answer:
        either: set[asyncio.Future[Any]] = {wanted, self._lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise EngineGone(self._lost.result())

    def _send(self, frame: AgentFrame) -> None:
        if self._transport is None or self._lost.done():
            raise EngineGone(self._lost.result() if self._lost.done() else "its control socket is not open")
        self._transport.write(encode(frame))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self._hear(self._decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            self.kill_because(f"it does not speak the control protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        # A host without its control socket is on its way out; what it still does is of no use to anybody.
        self.kill()
        self._lose_soon()

    def _hear(self, frame: ControlFrame) -> None:
        match frame:
            case Progress(phase):
                self.phase = phase
            case Booted():
                if not self._booted.done():
                    self._booted.set_result(frame)
            case Failed():
                self._failed = frame
            case Busy() | Idle():
                self._on_work(isinstance(frame, Busy))
            case GrantRefused():
                self._answer(Granted, frame)
            case SwapRefused() | SwapFailedFrame():
                self._answer(Swapped, frame)
            case Rejected(name, _, message):
                kind = _ANSWERS.get(name)
                waiting = self._waiting.get(kind) if kind is not None else None
                if waiting is not None and not waiting.done():
                    waiting.set_exception(EngineGone(f"it refused {name}: {message}"))
            case _:
                self._answer(type(frame), frame)

    def _answer(self, kind: type, frame: object) -> None:
        waiting = self._waiting.get(kind)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)

    def _has_exited(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if not self._exited.done():
            self._exited.set_result(None)
        self._lose_soon()

    def _lose_soon(self) -> None:
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._lose())

    async def _lose(self) -> None:
        """Socket and output may close in any order; hear all of both before saying why it is lost."""
        if not self._ending:
            await asyncio.wait({self._exited}, timeout=_REPORT_DEADLINE_S)
            await self._output.ended(_REPORT_DEADLINE_S)
        if self._failed is not None:
            report = ExitReport(self._failed.reason)
        else:
            report = ExitReport("the process ended", self._output.tail())
        if not self._lost.done():
            self._lost.set_result(report)
        if not self._ending:
            self._lost_unasked = True
            self._on_lost(report)
