"""An agent elsewhere, as `agent_port.AgentPort`: every command is a call over its connection, with a deadline.

Belongs to one connection. When that is over every call raises AgentAway; an agent that dials again is another object.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import cast

import msgspec

from pilotlight_pool.agent_port import AgentAway, Answer, AnyCommand, Command, EngineGone, Listener, SlotReport
from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_pool.remote import frames
from pilotlight_pool.remote.connection import Wire
from pilotlight_pool.remote.frames import CommandFailed, Done, FromAgent, Register

# On top of the command's own: the agent's answer is better than none.
_MARGIN_S = 5.0


class RemoteAgent:
    """`on_settled`: a slot whose last command came from an earlier connection is told; `on_leaving`: it ends soon."""

    def __init__(
        self,
        register: Register,
        wire: Wire[FromAgent],
        on_settled: Callable[[SlotReport], None],
        on_leaving: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = register.name
        self.slots: tuple[SlotFacts, ...] = register.slots
        self._reports = register.reports
        self._wire = wire
        self._on_settled = on_settled
        self._on_leaving = on_leaving
        self._clock = clock
        self._zygote_ready_at_s = clock() + register.zygote_ready_in_s
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._listener: Listener = lambda event: None
        self._over = ""

    def zygote_ready_in_s(self) -> float:
        return max(0.0, self._zygote_ready_at_s - self._clock())

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def end(self, why: str) -> None:
        """The connection is over."""
        self._over = why
        for call in self._calls.values():
            if not call.done():
                call.set_exception(AgentAway(f"agent {self.name}: {why}"))

    def hear(self, frame: FromAgent) -> None:
        match frame:
            case Done(number, value):
                if (call := self._calls.get(number)) is not None and not call.done():
                    call.set_result(value)
            case CommandFailed(number):
                if (call := self._calls.get(number)) is not None and not call.done():
                    call.set_exception(frames.error_of(frame))
            case frames.Happened(event):
                self._listener(event)
            case frames.Beat(ready_in_s):
                self._zygote_ready_at_s = self._clock() + ready_in_s
            case frames.Settled(report):
                self._on_settled(report)
            case frames.Leaving():
                self._on_leaving()
            case Register():
                self._wire.end("it registered twice")

    async def report(self) -> tuple[SlotReport, ...]:
        """What it said when it registered."""
        return self._reports

    async def do(self, command: Command[Answer]) -> Answer:
        if self._over:
            raise AgentAway(f"agent {self.name}: {self._over}")
        number, deadline_s = next(self._numbers), command.deadline_in_s
        call: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._calls[number] = call
        try:
            self._wire.send(frames.Call(number, cast(AnyCommand, command)))
            async with asyncio.timeout(deadline_s + _MARGIN_S):
                return frames.answer(command, await call)
        except TimeoutError:
            raise EngineGone(f"agent {self.name} has not answered {command.name} within {deadline_s:g} s") from None
        except asyncio.CancelledError:
            if not self._over:
                self._wire.send(frames.Dropped(number))
            raise
        finally:
            del self._calls[number]
