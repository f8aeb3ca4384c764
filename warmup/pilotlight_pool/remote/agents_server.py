"""The coordinator's door for agents: `GET /v1/agent` with the token, then a WebSocket. Its own port, so that a network
policy can keep everybody else away from it.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import aiohttp
import msgspec
from aiohttp import web

from pilotlight_pool.coordinator.agent_registry import AgentRegistry
from pilotlight_pool.listener import address_of
from pilotlight_pool.policy.leases.presence import Applicant, Superseded, TurnedAway
from pilotlight_pool.remote import frames
from pilotlight_pool.remote.connection import Wire
from pilotlight_pool.remote.frames import MAX_FRAME_BYTES, FromAgent, Register
from pilotlight_pool.remote.remote_agent import RemoteAgent
from pilotlight_pool.remote.token_file import TokenFile
from pilotlight_protocol.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)
PATH = "/v1/agent"
_REGISTER_DEADLINE_S = 5.0
_END_GRACE_S = 2.0


class AgentsServer:
    """`run` until cancelled. Raises Unavailable when a later coordinator has taken over: this one must end."""

    def __init__(self, registry: AgentRegistry, token: TokenFile, listener: socket.socket) -> None:
        self.address = address_of(listener)
        self._registry = registry
        self._token = token
        self._listener = listener
        self._wires: dict[str, Wire[FromAgent]] = {}
        self._superseded: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        app = web.Application()
        app.router.add_get(PATH, self._connect)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_GRACE_S, handler_cancellation=True)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener).start()
            raise Unavailable(await self._superseded)
        finally:
            for wire in self._wires.values():
                wire.end("the coordinator ends")
            await runner.cleanup()

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        try:
            known = self._token.opens_for(request.headers.get("Authorization", ""))
        except InvalidInput as error:
            log.error("agents cannot be let in: %s", error.message)
            return web.json_response({"error": "the coordinator has no token"}, status=503)
        if not known:
            log.warning("somebody at %s asked to be an agent with a wrong token", request.remote)
            return web.json_response({"error": "the token is not this coordinator's"}, status=401)
        ws = web.WebSocketResponse(max_msg_size=MAX_FRAME_BYTES, compress=False)
        await ws.prepare(request)
        wire = Wire(ws, msgspec.msgpack.Decoder(FromAgent), self._registry.spec.silent_s)
        register = await wire.first(_REGISTER_DEADLINE_S)
        if isinstance(register, Register):
            await self._serve(wire, register)
        if not ws.closed:
            await ws.close(code=aiohttp.WSCloseCode.POLICY_VIOLATION)
        return ws

    async def _serve(self, wire: Wire[FromAgent], register: Register) -> None:
        verdict = self._registry.register(
            Applicant(
                register.name, register.instance, frozenset(slot.slot_id for slot in register.slots),
                register.seen_epoch, register.protocol,
            )
        )  # fmt: skip
        if isinstance(verdict, TurnedAway | Superseded):
            log.warning("agent %s is turned away: %s", register.name, verdict.reason)
            await wire.say(frames.Refused(verdict.reason))
            if isinstance(verdict, Superseded) and not self._superseded.done():
                self._superseded.set_result(f"a later coordinator has taken over: {verdict.reason}")
            return
        if (older := self._wires.get(register.name)) is not None:
            older.end("it has connected again")
        self._wires[register.name] = wire
        spec, registry = self._registry.spec, self._registry
        agent = RemoteAgent(
            register, wire, lambda report: registry.take_over(agent, [report]),
            lambda: registry.close_slots(agent, "its agent is ending"),
        )  # fmt: skip
        agent.listen(registry.hear)
        why = "the connection was closed"
        try:
            wire.send(frames.Registered(registry.epoch, spec.beat_s, spec.silent_s))
            registry.take_over(agent, register.reports)
            why = await wire.run(agent.hear, frames.Beat, spec.beat_s)
        finally:
            if self._wires.get(register.name) is wire:
                del self._wires[register.name]
            agent.end(why)
            registry.leave(agent, why)
