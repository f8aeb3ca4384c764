"""The agent's end: dials the coordinator until it answers, registers, carries out its commands, tells what happens.

    dialing ──Registered──▶ obeying ──the connection ends──▶ dialing

Engines and grants outlive every connection. A command that was under way when a connection ended runs to its end: half
a swap must not be mistaken for a whole one. Its slot is told to the next coordinator then, and not before. A question
about a model ends with its connection, and when nobody waits for its answer any more: it may be a download.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from typing import Any, Never

import aiohttp
import msgspec

from pilotlight_pool.agent_port import AgentError, AgentPort, Command, SlotCommand
from pilotlight_pool.policy.leases import presence
from pilotlight_pool.policy.leases.presence import PresenceSpec
from pilotlight_pool.remote import frames
from pilotlight_pool.remote.agents_server import PATH
from pilotlight_pool.remote.connection import Wire
from pilotlight_pool.remote.frames import MAX_FRAME_BYTES, Call, FromCoordinator
from pilotlight_pool.remote.token_file import TokenFile
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import PilotlightError

log = logging.getLogger(__name__)
_DIAL_DEADLINE_S = 5.0
_BACK_OFF = BackOff(first_s=0.1, longest_s=2.0)
_LEAVE_POLL_S = 0.1


class CoordinatorLink:
    """`run` until cancelled. `url`: `http://host:port` of the coordinator's door for agents (`https` where something in
    front of it speaks TLS). `is_registered`: whether a coordinator commands this agent now."""

    def __init__(
        self,
        agent: AgentPort,
        url: str,
        token: TokenFile,
        spec: PresenceSpec = PresenceSpec(),  # noqa: B008  (frozen)
    ) -> None:
        self._agent = agent
        self._url = url
        self._spec = spec
        self._token = token
        self._instance = secrets.token_hex(8)
        self._seen_epoch = 0
        self._wire: Wire[FromCoordinator] | None = None
        self._commands: set[asyncio.Task[None]] = set()
        self._commanded: set[str] = set()
        self._questions: dict[int, asyncio.Task[None]] = {}
        self.is_registered = False

    async def run(self) -> Never:
        failures = 0
        try:
            # `sock_read` is the handshake's: once a connection is there, the wire's own silence ends it.
            deadlines = aiohttp.ClientTimeout(sock_connect=_DIAL_DEADLINE_S, sock_read=_DIAL_DEADLINE_S)
            async with aiohttp.ClientSession(timeout=deadlines) as http:
                while True:
                    why, lasted = await self._dial(http)
                    failures = 0 if lasted else failures + 1
                    delay_s = _BACK_OFF.delay_s(failures + 1, jitter=0.5 + random.random() / 2)  # noqa: S311
                    if failures in {0, 1} or failures % 30 == 0:
                        log.warning("no coordinator at %s: %s; dialing again", self._url, why)
                    await asyncio.sleep(delay_s)
        finally:
            for command in self._commands:
                command.cancel()

    async def leave(self, deadline_s: float) -> None:
        """Take no new work and let what is leased finish; returns when nothing is, or after the deadline."""
        if self._wire is not None:
            self._wire.send(frames.Leaving())
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    if not any(report.grants for report in await self._agent.report()):
                        return
                    await asyncio.sleep(_LEAVE_POLL_S)
        except TimeoutError:
            log.warning("leases are ended with this agent")

    async def _dial(self, http: aiohttp.ClientSession) -> tuple[str, bool]:
        """One connection, from the first try to its end. Returns why it ended, and whether it was of any use."""
        try:
            async with http.ws_connect(
                self._url + PATH,
                headers={"Authorization": self._token.header()},
                max_msg_size=MAX_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            ) as socket:
                wire = Wire(socket, msgspec.msgpack.Decoder(FromCoordinator), self._spec.silent_s)
                return await self._obey(wire)
        except aiohttp.WSServerHandshakeError as error:
            hint = "; is --token_file the coordinator's?" if error.status == 401 else ""
            return f"it answers {error.status}{hint}", False
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return str(error) or type(error).__name__, False
        except PilotlightError as error:
            return error.message, False

    async def _obey(self, wire: Wire[FromCoordinator]) -> tuple[str, bool]:
        self._wire = wire
        self._agent.listen(lambda event: wire.send(frames.Happened(event)))
        await wire.say(await self._registration())
        answer = await wire.first(wire.silent_s)
        if isinstance(answer, frames.Refused):
            return answer.reason, False
        if not isinstance(answer, frames.Registered):
            return "it does not answer as a coordinator does", False
        if not presence.obeys(self._seen_epoch, answer.epoch):
            return f"its epoch {answer.epoch} is over: {self._seen_epoch} has begun", False
        self._seen_epoch = answer.epoch
        self.is_registered = True
        log.info("registered with the coordinator of epoch %d", answer.epoch)
        try:
            why = await wire.run(
                lambda frame: self._hear(wire, frame),
                lambda: frames.Beat(self._agent.zygote_ready_in_s()),
                answer.beat_s,
            )
            return why, True
        finally:
            self.is_registered = False
            for question in list(self._questions.values()):
                question.cancel()
            self._questions.clear()

    async def _registration(self) -> frames.Register:
        reports = await self._agent.report()
        return frames.Register(
            presence.PROTOCOL,
            self._agent.name,
            self._instance,
            self._seen_epoch,
            self._agent.slots,
            tuple(report for report in reports if report.slot_id not in self._commanded),
            self._agent.zygote_ready_in_s(),
        )

    def _hear(self, wire: Wire[FromCoordinator], frame: FromCoordinator) -> None:
        if isinstance(frame, Call):
            slot_id = frame.command.slot_id if isinstance(frame.command, SlotCommand) else None
            if slot_id is not None and slot_id in self._commanded:
                wire.end(f"it commands {slot_id}, which is still busy with its last command")
                return
            if slot_id is not None:
                self._commanded.add(slot_id)
            task = asyncio.create_task(self._carry_out(wire, frame, slot_id), name=f"command {frame.number}")
            self._commands.add(task)
            task.add_done_callback(self._commands.discard)
            if slot_id is None:
                self._questions[frame.number] = task
                task.add_done_callback(lambda _: self._questions.pop(frame.number, None))
        elif isinstance(frame, frames.Dropped):
            if (question := self._questions.get(frame.number)) is not None:
                question.cancel()
        elif not isinstance(frame, frames.Beat):
            wire.end(f"it says {type(frame).__name__} where nothing of the kind is due")

    async def _carry_out(self, wire: Wire[FromCoordinator], call: Call, slot_id: str | None) -> None:
        answer: frames.Done | frames.CommandFailed
        try:
            command: Command[Any] = call.command
            answer = frames.Done(call.number, frames.value(await self._agent.do(command)))
        except (AgentError, PilotlightError) as error:
            answer = frames.failure(call.number, error)
        except Exception as error:
            log.exception("command %s", call.command.name)
            answer = frames.failure(call.number, AgentError(f"the agent failed: {type(error).__name__}: {error}"))
        if slot_id is not None:
            self._commanded.discard(slot_id)
        if wire is self._wire:
            wire.send(answer)
        elif slot_id is not None and self._wire is not None:
            reports = await self._agent.report()
            self._wire.send(frames.Settled(next(report for report in reports if report.slot_id == slot_id)))
