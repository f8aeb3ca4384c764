"""A coordinator and several agents in virtual time: who is asked, who is away, who comes back with what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from coordinator_world import World, Worlds
from memory_agent import GIB, MemoryAgent

from pilotlight_pool.agent_port import SlotReport
from pilotlight_pool.coordinator.coordinator import CoordinatorSettings
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.engine_orders import EngineOrder, Grant, ModelFacts, ModelOrder
from pilotlight_pool.policy.leases.access import TRUSTED
from pilotlight_pool.policy.leases.presence import PresenceSpec
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.fairness import FairnessSpec
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import ModelNotFound, PayloadTooLarge, Unavailable
from pilotlight_protocol.leases import LeaseRequest

pytestmark = pytest.mark.looptime

A, B, LARGE = "model://f/a", "model://f/b", "model://f/large?gib=8"


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    running = Worlds()

    async def _start(*agents: MemoryAgent, **settings: Any) -> World:
        settings.setdefault("driver", DriverSettings(back_off=BackOff(0.0, 30.0, free=1)))
        settings.setdefault("agent_grace_s", 0.01)
        world = await running.start(CoordinatorSettings(presence=PresenceSpec(lost_after_s=20.0), **settings))
        for agent in agents:
            await world.join(agent)
        return world

    yield _start
    await running.end()


def served(agent: MemoryAgent, slot_id: str, lease: str, model: str, held_s: float = 5.0) -> None:
    """What an agent reports that serves a lease."""
    facts = ModelFacts(model, "f", "awq", 1000, 2**30, "ram", True)
    grant = Grant(lease, "hash", "default", "m", "normal", "shared", held_s)
    agent.reports[slot_id] = SlotReport(
        slot_id, SlotState.LEASED, 5, EngineOrder(ModelOrder(model), facts, "m"), "default", "shared", (grant,), False,
        f"unix:///{slot_id}",
    )  # fmt: skip
    agent.loaded[slot_id], agent.granted[slot_id], agent.incarnations[slot_id] = model, (lease,), 5


def two() -> tuple[MemoryAgent, MemoryAgent]:
    return MemoryAgent("a/0", name="a"), MemoryAgent("b/0", name="b")


async def test_without_agents_a_request_is_told_so_and_one_that_waits_is_served(start: Any) -> None:
    world = await start(agent_grace_s=5.0)
    waiting = asyncio.create_task(world.coordinator.lease_service.request(LeaseRequest(A, "m", wait_s=1.0), TRUSTED))
    await world.settle()
    await world.join(two()[0])
    assert (await waiting).state == "active"
    world = await start()
    with pytest.raises(Unavailable, match="no agent has registered"):
        await world.coordinator.lease_service.request(LeaseRequest(A, "m"), TRUSTED)


async def test_nobody_downloads_what_another_node_has(start: Any) -> None:
    first, second = two()
    first.tiers[A], second.tiers[A] = "remote", "disk"
    world = await start(first, second)
    lease = await world.lease(A)
    assert lease.state == "active"
    assert second.loaded == {"b/0": A}
    assert ("describe", A) not in first.asked


async def test_the_node_with_the_weights_in_memory_is_nearer_than_the_one_with_a_disk(start: Any) -> None:
    first, second = two()
    big = "model://f/big"
    first.tiers[big], second.tiers[big] = "disk", "ram"
    world = await start(first, second)
    assert (await world.lease(big)).state == "active"
    assert (first.loaded, second.loaded) == ({}, {"b/0": big})


async def test_a_lease_that_lands_where_the_model_is_not_has_it_fetched_first(start: Any) -> None:
    first, second = two()
    first.tiers[A], second.tiers[A] = "remote", "disk"
    world = await start(first, second)
    await world.lease(A, priority="interactive")
    other = await world.lease(A, priority="interactive")
    assert other.state == "active"
    assert first.loaded == {"a/0": A}
    assert first.asked[-1] == ("describe", A)


async def test_each_node_calls_an_engine_by_its_own_release(start: Any) -> None:
    first, second = two()
    first.release, second.release = "-0.31", "-0.32"
    world = await start(first, second)
    leases = [await world.lease(A), await world.lease(A)]
    assert [lease.state for lease in leases] == ["active", "active"]
    for lease in leases:
        world.coordinator.lease_service.release(lease.lease_id, TRUSTED)
    await world.settle()
    assert [(await world.lease(A)).path for _ in leases] == ["loaded", "loaded"]


async def test_leases_that_are_served_already_come_in_however_full_the_queue_is(start: Any) -> None:
    first, second = two()
    full = PoolPolicy(FairnessSpec(max_waiting=1, max_waiting_per_tenant=1))
    world = await start(first, policy=full)
    await world.lease(A, priority="interactive")
    assert (await world.ask(B)).state == "queued"
    served(second, "b/0", "one", B)
    await world.join(second)
    assert world.coordinator.lease_service.heartbeat("one", TRUSTED).state == "active"
    world.coordinator.find_unused()
    assert "one" in world.coordinator.pool.fair.running
    world.coordinator.lease_service.release("one", TRUSTED)
    await world.settle()
    assert "one" not in world.coordinator.pool.fair.running


async def test_a_node_that_cannot_have_the_model_is_left_out(start: Any) -> None:
    first, second = two()
    world = await start(first, second)

    async def nowhere(order: ModelOrder) -> ModelFacts:
        raise ModelNotFound(f"{order.uri} is not a folder here")

    first._facts = nowhere  # type: ignore[method-assign]  # a fault, made
    assert (await world.lease(A, priority="interactive")).state == "active"
    assert second.loaded == {"b/0": A}
    waiting = await world.ask(A, priority="interactive", tenant="other")
    assert waiting.state == "queued"
    assert any("cannot be had on its node" in reason for reason in waiting.reasons)
    second._facts = nowhere  # type: ignore[method-assign]  # a fault, made
    with pytest.raises(ModelNotFound):
        await world.ask(B)


async def test_an_agent_away_gets_nothing_and_its_leases_go_on(start: Any) -> None:
    first, second = two()
    world = await start(first, second)
    lease = await world.lease(A)
    holder = first if first.granted else second
    other = second if holder is first else first
    await world.leave(holder)
    assert world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED).state == "active"
    assert [line.absent for line in world.coordinator.slots() if line.lease_id] == ["its agent does not answer"]
    assert (await world.lease(B)).state == "active"
    assert list(other.loaded.values()) == [B]
    served(holder, holder.slots[0].slot_id, lease.lease_id, A)
    await world.join(holder)
    assert world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED).state == "active"
    world.coordinator.lease_service.release(lease.lease_id, TRUSTED)
    await world.settle()
    assert holder.granted == {}


async def test_what_was_being_placed_on_an_agent_that_goes_away_is_placed_elsewhere(start: Any) -> None:
    first, second = two()
    second.tiers[A] = "disk"  # the first is nearer
    world = await start(first, second)
    first.gate = asyncio.Event()
    lease = await world.ask(A)
    assert ("boot", "a/0", A) in first.calls
    await world.leave(first)
    assert (await world.coordinator.lease_service.poll(lease.lease_id, 0.0, TRUSTED)).state == "active"
    assert second.granted == {"b/0": (lease.lease_id,)}


async def test_an_agent_that_stays_away_loses_its_leases_with_the_reason(start: Any) -> None:
    first, _ = two()
    world = await start(first)
    lease = await world.lease(A)
    await world.leave(first)
    await world.pass_(10.0)
    world.coordinator.pool.renew(lease.lease_id)
    await world.pass_(10.0)
    with pytest.raises(LeaseGone, match="agent a has not answered"):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert world.coordinator.slots() == []


async def test_an_agent_that_was_restarted_has_lost_what_it_served(start: Any) -> None:
    first, _ = two()
    world = await start(first)
    lease = await world.lease(A)
    await world.leave(first)
    await world.join(MemoryAgent("a/0", name="a"), instance="2")
    with pytest.raises(LeaseGone, match="serves it no longer"):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert (await world.lease(A)).state == "active"


async def test_an_agent_that_returns_with_fewer_slots_has_given_up_the_others(start: Any) -> None:
    world = await start(MemoryAgent("a/0", "a/1", name="a"))
    await world.lease(A)
    lost = await world.lease(B)
    [agent] = world.coordinator.registry.agents()
    await world.leave(agent)
    await world.join(MemoryAgent("a/0", name="a"), instance="2")
    assert [(line.slot, line.absent) for line in world.coordinator.slots()] == [("a/0", "")]
    with pytest.raises(LeaseGone):
        world.coordinator.lease_service.heartbeat(lost.lease_id, TRUSTED)
    assert (await world.lease(A)).state == "active"


async def test_a_lease_that_expired_while_its_agent_was_away_is_revoked_when_it_returns(start: Any) -> None:
    first, _ = two()
    world = await start(first)
    lease = await world.lease(A)
    await world.leave(first)
    await world.pass_(16.0)
    with pytest.raises(LeaseGone):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    served(first, "a/0", lease.lease_id, A)
    await world.join(first)
    assert first.granted == {}
    assert first.calls[-1] == ("revoke", "a/0", lease.lease_id)
    first.reports.clear()
    assert (await world.lease(A)).path == "loaded"


async def test_a_restarted_coordinator_keeps_leases_whose_agents_are_late(start: Any) -> None:
    first, second = two()
    served(first, "a/0", "one", A)
    served(second, "b/0", "two", A)
    world = await start(first, settle_s=15.0)
    lease_service = world.coordinator.lease_service
    assert lease_service.heartbeat("one", TRUSTED).state == "active"
    with pytest.raises(Unavailable, match="just started"):
        lease_service.heartbeat("two", TRUSTED)
    lease_service.release("two", TRUSTED)
    await world.join(second)
    assert second.granted == {}, "its holder gave it back while nobody knew of it"
    await world.pass_(16.0)
    with pytest.raises(ModelNotFound):
        lease_service.heartbeat("three", TRUSTED)


async def test_an_agent_that_ends_soon_takes_no_new_lease(start: Any) -> None:
    first, second = two()
    second.tiers[A] = "disk"
    world = await start(first, second)
    lease = await world.lease(A, priority="interactive")
    assert first.granted
    world.coordinator.registry.close_slots(first, "its agent is ending")
    world.coordinator.lease_service.release(lease.lease_id, TRUSTED)
    await world.settle()
    assert first.granted == {}, "what it does goes on"
    assert (await world.lease(A)).state == "active"
    assert second.granted


async def test_a_model_whose_node_has_yet_to_register_is_not_too_large(start: Any) -> None:
    small, big = MemoryAgent("a/0", name="a"), MemoryAgent("b/0", name="b", memory_bytes=16 * GIB)
    world = await start(small, settle_s=15.0)
    with pytest.raises(Unavailable, match="may be away") as refused:
        await world.ask(LARGE)
    assert refused.value.retry_after_s == 5.0
    await world.join(big)
    assert (await world.lease(LARGE)).state == "active"
    world = await start(small, settle_s=15.0)
    await world.pass_(16.0)
    with pytest.raises(PayloadTooLarge):
        await world.ask(LARGE)


async def test_a_model_whose_node_has_left_is_not_too_large(start: Any) -> None:
    small, big = MemoryAgent("a/0", name="a"), MemoryAgent("b/0", name="b", memory_bytes=16 * GIB)
    world = await start(small, big)
    await world.leave(big)
    await world.pass_(21.0)
    assert [slot.slot for slot in world.coordinator.slots()] == ["a/0"]
    with pytest.raises(Unavailable, match="may be away"):
        await world.ask(LARGE)
    with pytest.raises(PayloadTooLarge):
        await world.ask("model://f/larger?gib=32")
    await world.join(big, instance="2")
    assert (await world.lease(LARGE)).state == "active"
