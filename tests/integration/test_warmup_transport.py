"""The connection between agent and coordinator, over real sockets and an agent without processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from memory_agent import MemoryAgent
from waiting import until_async

from pilotlight_pool.agent_port import EngineRefused, SlotReport
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.engine_orders import EngineOrder, ModelFacts, ModelOrder
from pilotlight_pool.listener import open_listener
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_pool.policy.leases.presence import PresenceSpec
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.remote.agents_server import AgentsServer
from pilotlight_pool.remote.coordinator_link import CoordinatorLink
from pilotlight_pool.remote.token_file import TokenFile
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.leases import LeaseRequest

pytestmark = pytest.mark.integration
A = "model://f/a"
SPEC = PresenceSpec(beat_s=0.05, silent_s=2.0, lost_after_s=5.0)


class Coordinating:
    """A coordinator with its door for agents. `ended`: its door's task, which fails when it is superseded."""

    def __init__(self, coordinator: Coordinator, door: AgentsServer, ended: asyncio.Task[None]) -> None:
        self.coordinator, self.door, self.ended = coordinator, door, ended

    @property
    def port(self) -> int:
        return int(self.door.address.rpartition(":")[2])

    @property
    def present(self) -> list[str]:
        return [agent.name for agent in self.coordinator.registry.agents()]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, token: TokenFile, epoch_s: float) -> AsyncIterator[Coordinating]:
        settings = CoordinatorSettings(presence=SPEC, driver=DriverSettings(back_off=BackOff(0.0, 30.0, free=1)))
        coordinator = Coordinator(settings, unix_clock=lambda: epoch_s)
        with open_listener("tcp://127.0.0.1:0") as listener:
            door = AgentsServer(coordinator.registry, token, listener)
            tasks = [asyncio.create_task(coordinator.run([])), asyncio.create_task(door.run())]
            try:
                yield cls(coordinator, door, tasks[1])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


class Cable:
    """Stands for a cluster's Service: forwards to whatever `port` says now; `cut` ends what runs through it."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
            self._writers.append(there_writer)
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def token(tmp_path: Path) -> TokenFile:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef")
    return TokenFile(path)


@contextlib.asynccontextmanager
async def linked(agent: MemoryAgent, url: str, token: TokenFile) -> AsyncIterator[CoordinatorLink]:
    link = CoordinatorLink(agent, url, token, SPEC)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_commands_events_and_errors_come_through_as_they_are(token: TokenFile) -> None:
    agent = MemoryAgent("a/0", name="a")
    async with Coordinating.running(token, 1.0) as one, linked(agent, one.door.address, token):
        lease_service = one.coordinator.lease_service
        lease = await lease_service.request(LeaseRequest(A, "m", wait_s=10.0), TRUSTED)
        assert (lease.state, lease.endpoint) == ("active", "unix:///a/0")
        agent.die("a/0", "out of memory")

        def is_gone() -> bool:
            try:
                lease_service.heartbeat(lease.lease_id, TRUSTED)
            except LeaseGone as gone:
                return "out of memory" in gone.message
            return False

        await until_async(is_gone)
        agent.fails = lambda name, slot_id, model: EngineRefused("no such argument") if name == "boot" else None
        with pytest.raises(InvalidInput, match="no such argument"):
            await lease_service.request(LeaseRequest(A, "m", wait_s=10.0), TRUSTED)


async def test_a_command_outlives_its_connection_and_its_slot_is_told_when_it_is_done(token: TokenFile) -> None:
    agent, cable = MemoryAgent("a/0", "a/1", name="a"), Cable()
    agent.gate = asyncio.Event()
    async with Coordinating.running(token, 1.0) as one, cable.laid() as url, linked(agent, url, token):
        cable.port = one.port
        asking = asyncio.create_task(one.coordinator.lease_service.request(LeaseRequest(A, "m", wait_s=20.0), TRUSTED))
        await until_async(lambda: agent.calls)
        (_, busy, _) = agent.calls[0]
        other = next(slot.slot_id for slot in agent.slots if slot.slot_id != busy)
        cable.cut()
        await until_async(lambda: one.present and set(one.coordinator.pool.absent) == {busy})
        await until_async(lambda: ("boot", other, A) in agent.calls)
        order = EngineOrder(ModelOrder(A), ModelFacts(A, "f", "awq", 1000, 2**30, "ram", True), "m")
        agent.reports[busy] = SlotReport(busy, SlotState.IDLE, 1, order)
        agent.gate.set()
        assert (await asking).state == "active"
        await until_async(lambda: not one.coordinator.pool.absent)
        assert one.coordinator.pool.ledger.slots[busy].state is SlotState.IDLE
        assert agent.granted == {other: ((await asking).lease_id,)}


class Fetching(MemoryAgent):
    """Its downloads last until nobody waits for them."""

    asking = 0

    async def describe(self, order: ModelOrder) -> ModelFacts:
        self.asking += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.asking -= 1
        raise AssertionError


async def test_an_agent_hears_that_nobody_waits_for_a_model_any_more(token: TokenFile) -> None:
    agent, cable = Fetching("a/0", name="a"), Cable()
    async with Coordinating.running(token, 1.0) as one, cable.laid() as url, linked(agent, url, token):
        cable.port = one.port
        first, second = (
            asyncio.create_task(one.coordinator.lease_service.request(LeaseRequest(A, "m", wait_s=20.0), TRUSTED))
            for _ in range(2)
        )
        await until_async(lambda: agent.asking == 2)
        first.cancel()
        await until_async(lambda: agent.asking == 1)
        cable.cut()
        await until_async(lambda: agent.asking == 0)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def test_an_agent_follows_the_later_coordinator_and_the_earlier_one_ends(token: TokenFile) -> None:
    agent, cable = MemoryAgent("a/0", name="a"), Cable()
    async with (
        Coordinating.running(token, 1.0) as old,
        Coordinating.running(token, 2.0) as new,
        cable.laid() as url,
        linked(agent, url, token) as link,
    ):
        cable.port = old.port
        await until_async(lambda: old.present and link.is_registered)
        cable.port = new.port
        cable.cut()
        await until_async(lambda: new.present and link.is_registered)
        await until_async(lambda: not old.present)
        cable.port = old.port
        cable.cut()
        with pytest.raises(Unavailable, match="a later coordinator has taken over"):
            await asyncio.wait_for(asyncio.shield(old.ended), 10.0)
        assert not old.present
        cable.port = new.port
        await until_async(lambda: new.present and link.is_registered)


async def test_silence_ends_a_connection_at_both_ends(token: TokenFile) -> None:
    """A peer that keeps the connection open and says nothing."""
    agent = MemoryAgent("a/0", name="a")

    dialled = 0

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        with contextlib.suppress(OSError):
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with linked(agent, url, token) as link:
            await until_async(lambda: dialled > 1, what="the agent never gave the silent one up")
            assert not link.is_registered
    finally:
        server.close()
