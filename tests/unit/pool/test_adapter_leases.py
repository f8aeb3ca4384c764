"""Leases that bring an adapter, at a coordinator over an agent without processes: who shares an engine with whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from coordinator_world import World, Worlds
from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import WorkBegan
from pilotlight_pool.coordinator.coordinator import CoordinatorSettings
from pilotlight_pool.policy.leases.access import Caller
from pilotlight_protocol.adapters import AT_ONCE
from pilotlight_protocol.errors import Forbidden, InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.leases import LeaseAnswer

pytestmark = pytest.mark.looptime
BASE, OTHER_BASE = "model://f/base", "model://f/other"
ONE, TWO, THREE = "adapter://one", "adapter://two", "adapter://three"


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    running = Worlds()

    async def _start(*slots: str) -> World:
        return await running.start(CoordinatorSettings(), MemoryAgent(*(slots or ("s0",))))

    yield _start
    await running.end()


async def lease(world: World, adapter: str, tenant: str = "a", model: str = BASE, **more: Any) -> LeaseAnswer:
    return await world.lease(model, adapter=adapter, tenant=tenant, name=f"{tenant}-{adapter[10:]}", **more)


async def test_tenants_adapters_share_one_engine_without_a_boot_or_a_swap(start: Any) -> None:
    world = await start("s0", "s1")
    world.take_time(4.0)
    first = await lease(world, ONE, "a")
    second, third = await lease(world, TWO, "b"), await lease(world, ONE, "c")
    assert (first.path, second.path, third.path) == ("fork", "adapter", "adapter")
    assert world.commands() == ["boot", "grant", "grant", "grant"], "an empty slot costs a boot, so it stays empty"
    assert world.agent.granted == {"s0": (first.lease_id, second.lease_id, third.lease_id)}
    assert list(world.agent.adapters.values()) == [ONE, TWO, ONE]
    assert {answer.endpoint for answer in (first, second, third)} == {"unix:///s0"}


async def test_whoever_asks_while_the_engine_boots_is_let_in_with_it(start: Any) -> None:
    world = await start()
    world.agent.gate = asyncio.Event()
    answers = [await world.ask(BASE, adapter=each, tenant=each, name=each) for each in (ONE, TWO, THREE)]
    assert {answer.state for answer in answers} == {"placing"}
    world.agent.gate.set()
    await world.settle()
    assert world.commands() == ["boot", "grant", "grant", "grant"]


async def test_the_next_adapter_on_an_idle_engine_is_loaded_into_it(start: Any) -> None:
    world = await start()
    await world.release(await lease(world, ONE, "a"))
    again = await lease(world, TWO, "b")
    assert (again.path, world.commands()) == ("adapter", ["boot", "grant", "revoke", "grant"])


async def test_the_engine_without_adapters_is_another(start: Any) -> None:
    world = await start("s0", "s1")
    plain = await world.lease(BASE)
    adapted = await lease(world, ONE, "default")
    assert (plain.path, adapted.path) == ("fork", "fork")
    assert plain.endpoint != adapted.endpoint


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"model": OTHER_BASE}),
        ({}, {"isolation": "reset"}),
        ({"isolation": "dedicated"}, {}),
        ({}, {"engine_args": {"max_model_len": "64"}}),
    ],
    ids=["base", "reset", "dedicated", "arguments"],
)
async def test_what_may_not_share_waits(start: Any, first: dict[str, Any], second: dict[str, Any]) -> None:
    world = await start()
    held = await lease(world, ONE, "a", **first)
    world.agent.tell(WorkBegan("s0", held.lease_id))
    asked = {"model": BASE} | second
    other = await world.ask(asked.pop("model"), adapter=TWO, tenant="b", **asked)
    assert other.state == "queued"
    assert world.agent.granted == {"s0": (held.lease_id,)}


async def test_an_engine_that_served_somebody_apart_takes_no_other_tenant(start: Any) -> None:
    world = await start()
    await world.release(await lease(world, ONE, "a", isolation="reset"))
    held = await lease(world, ONE, "a")
    world.agent.tell(WorkBegan("s0", held.lease_id))
    assert (await world.ask(BASE, adapter=TWO, tenant="b")).state == "queued"


async def test_no_more_adapters_at_once_than_the_engine_has_room_for(start: Any) -> None:
    world = await start("s0", "s1")
    world.take_time(4.0)
    most = AT_ONCE[world.agent.adapter_rank]
    leases = [await lease(world, f"adapter://{number}", f"t{number}") for number in range(most + 1)]
    again = await lease(world, "adapter://0", "t0")
    assert {answer.endpoint for answer in leases[:-1]} == {again.endpoint}
    assert (leases[-1].path, leases[-1].endpoint != again.endpoint) == ("fork", True)


async def test_tenants_that_share_a_slot_are_charged_in_equal_parts(start: Any) -> None:
    world = await start()
    first, second = await lease(world, ONE, "a"), await lease(world, TWO, "b")
    fair = world.coordinator.pool.fair
    assert [(run.tenant, run.part) for run in fair.running.values()] == [("a", 0.5), ("b", 0.5)]
    await world.release(first)
    fair = world.coordinator.pool.fair
    assert [(run.tenant, run.part) for run in fair.running.values()] == [("b", 1.0)]
    await world.release(second)
    assert not world.coordinator.pool.fair.running


async def test_a_shared_engine_is_taken_from_nobody_while_one_of_them_works(start: Any) -> None:
    """Batch work of one tenant would give way; the other's would not, and it is the same engine."""
    world = await start()
    batch, normal = await lease(world, ONE, "a", priority="batch"), await lease(world, TWO, "b", priority="interactive")
    for held in (batch, normal):
        world.agent.tell(WorkBegan("s0", held.lease_id))
    other = await world.ask(OTHER_BASE, tenant="c", priority="interactive")
    assert other.state == "queued"
    await world.release(normal)
    assert world.agent.granted == {"s0": (other.lease_id,)}, "what is left is batch work"


async def test_a_refused_adapter_is_refused_for_good_and_its_neighbour_stays(start: Any) -> None:
    world = await start()
    good = await lease(world, ONE, "a")

    def fails(command: str, slot_id: str, subject: str) -> PilotlightError | None:
        return InvalidInput("vLLM cannot load this adapter") if (command, subject) == ("grant", TWO) else None

    world.agent.fails = fails
    with pytest.raises(InvalidInput, match="cannot load"):
        await lease(world, TWO, "b")
    world.agent.calls.clear()
    with pytest.raises(InvalidInput, match="cannot load"):
        await world.ask(BASE, adapter=TWO, tenant="b")
    assert (world.commands(), world.states()) == ([], ["leased"])
    assert world.agent.granted == {"s0": (good.lease_id,)}
    assert (await lease(world, THREE, "b")).path == "adapter"


async def test_an_adapter_that_is_refused_alone_leaves_its_engine_to_others(start: Any) -> None:
    world = await start()

    def fails(command: str, slot_id: str, subject: str) -> PilotlightError | None:
        return ModelNotFound("it has changed") if (command, subject) == ("grant", TWO) else None

    world.agent.fails = fails
    answer = await world.ask(BASE, adapter=TWO, tenant="b")
    with pytest.raises(ModelNotFound, match="changed"):
        await world.coordinator.lease_service.poll(answer.lease_id, 0.0, Caller(None, operator=True))
    assert world.states() == ["idle"]
    assert (await lease(world, ONE, "a")).path == "adapter"


async def test_an_adapter_that_finds_no_room_is_loaded_when_there_is_some(start: Any) -> None:
    world = await start()
    full = [Unavailable("the engine has too little memory for another adapter")]

    def fails(command: str, slot_id: str, subject: str) -> PilotlightError | None:
        return full.pop() if (command, subject) == ("grant", TWO) and full else None

    world.agent.fails = fails
    await lease(world, ONE, "a")
    with pytest.raises(Unavailable, match="memory"):
        await lease(world, TWO, "b")
    assert (await lease(world, TWO, "b")).path == "adapter"


async def test_what_a_lease_is_answered_with_is_named_by_the_bytes_of_model_and_adapter(start: Any) -> None:
    world = await start("s0", "s1")
    plain = await world.lease(BASE)
    first, again, other = await lease(world, ONE, "a"), await lease(world, ONE, "b"), await lease(world, TWO, "b")
    assert first.content == again.content
    assert len({plain.content, first.content, other.content, ""}) == 4


async def test_an_adapter_is_a_source_like_its_base(start: Any) -> None:
    world = await start()
    caller = Caller("a", operator=False, sources=("model://f/",))
    with pytest.raises(Forbidden, match="no source of tenant"):
        await world.ask(BASE, caller, adapter="adapter://one")
