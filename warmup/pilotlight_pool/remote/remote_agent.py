"""An agent elsewhere, as `agent_port.AgentPort`: every command is a call over its connection, with a deadline.

Belongs to one connection. When that is over every call raises AgentAway; an agent that dials again is another object.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from pilotlight_pool.agent_port import (
    AgentAway,
    EngineGone,
    EngineOrder,
    EngineReady,
    Grant,
    Listener,
    ModelFacts,
    ModelOrder,
    SlotFacts,
    SlotReport,
)
from pilotlight_pool.remote import frames
from pilotlight_pool.remote.connection import Wire
from pilotlight_pool.remote.frames import CommandFailed, Done, FromAgent, Register
from pilotlight_protocol.leases import Isolation

# On top of the command's own: the agent's answer is better than none.
_MARGIN_S = 5.0
_PEEK_DEADLINE_S = 10.0
_DESCRIBE_DEADLINE_S = 3600.0
_GRANT_DEADLINE_S = 15.0
_STOP_DEADLINE_S = 20.0
_Answer = TypeVar("_Answer")
_PEEKED: msgspec.msgpack.Decoder[ModelFacts | None] = msgspec.msgpack.Decoder(ModelFacts | None)
_FACTS = msgspec.msgpack.Decoder(ModelFacts)
_READY = msgspec.msgpack.Decoder(EngineReady)
_ENDPOINT = msgspec.msgpack.Decoder(str)
_NOTHING: msgspec.msgpack.Decoder[None] = msgspec.msgpack.Decoder(None)


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

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        return await self._call(frames.Peek(order), _PEEK_DEADLINE_S, _PEEKED)

    async def describe(self, order: ModelOrder) -> ModelFacts:
        return await self._call(frames.Describe(order), _DESCRIBE_DEADLINE_S, _FACTS)

    async def boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        return await self._call(frames.Boot(slot_id, order, deadline_s), deadline_s, _READY)

    async def swap(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        return await self._call(frames.Swap(slot_id, order, deadline_s), deadline_s, _READY)

    async def grant(self, slot_id: str, grant: Grant, tenant: str, isolation: Isolation) -> str:
        return await self._call(frames.GrantLease(slot_id, grant, tenant, isolation), _GRANT_DEADLINE_S, _ENDPOINT)

    async def revoke(self, slot_id: str, lease_id: str, reason: str, deadline_s: float) -> None:
        await self._call(frames.Revoke(slot_id, lease_id, reason, deadline_s), deadline_s, _NOTHING)

    async def stop(self, slot_id: str) -> None:
        await self._call(frames.Stop(slot_id), _STOP_DEADLINE_S, _NOTHING)

    async def sleep(self, slot_id: str, deadline_s: float) -> None:
        await self._call(frames.Sleep(slot_id, deadline_s), deadline_s, _NOTHING)

    async def wake(self, slot_id: str, incarnation: int, deadline_s: float) -> EngineReady:
        return await self._call(frames.Wake(slot_id, incarnation, deadline_s), deadline_s, _READY)

    async def discard(self, slot_id: str, incarnation: int) -> None:
        await self._call(frames.Discard(slot_id, incarnation), _STOP_DEADLINE_S, _NOTHING)

    async def report(self) -> tuple[SlotReport, ...]:
        """What it said when it registered."""
        return self._reports

    async def _call(
        self, command: frames.Command, deadline_s: float, answer: msgspec.msgpack.Decoder[_Answer]
    ) -> _Answer:
        if self._over:
            raise AgentAway(f"agent {self.name}: {self._over}")
        number = next(self._numbers)
        call: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._calls[number] = call
        try:
            self._wire.send(frames.Call(number, command))
            async with asyncio.timeout(deadline_s + _MARGIN_S):
                return answer.decode(await call)
        except TimeoutError:
            what = type(command).__name__.lower()
            raise EngineGone(f"agent {self.name} has not answered {what} within {deadline_s:g} s") from None
        except asyncio.CancelledError:
            if not self._over:
                self._wire.send(frames.Dropped(number))
            raise
        finally:
            del self._calls[number]
