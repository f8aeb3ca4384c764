"""A slot is emptied for a proof only where nobody misses its engine, for two models that are booted for one another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from coordinator_world import World, Worlds
from memory_agent import MemoryAgent

from pilotlight_pool.coordinator.coordinator import CoordinatorSettings
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.coordinator.proof_room import AGAIN_S, IDLE_S, ProofRoom
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof

pytestmark = pytest.mark.looptime

COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="fp8", scheme="", dtype="bfloat16", tied="true",
    device="cpu", capability="x", compiled=False, workers="1",
)  # fmt: skip
A, B = "model://f/a?boot", "model://f/b?boot"


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    running = Worlds()
    yield running
    await running.end()


async def idle_after(worlds: Worlds, *models: str, **agent: Any) -> tuple[World, ProofRoom]:
    """A slot that is idle after these leases, and what looks whether it is to be emptied."""
    only = MemoryAgent("one", **agent)
    only.combination = COMBINATION
    world = await worlds.start(CoordinatorSettings(PoolPolicy(expires_s=1e6)), only)
    for model in models:
        await world.release(await world.lease(model))
    coordinator = world.coordinator
    return world, ProofRoom(coordinator.pool, coordinator.registry.drivers, coordinator.registry.proofs)


async def look(world: World, room: ProofRoom, after_s: float) -> list[str]:
    await world.pass_(after_s)
    room.look(world.coordinator._known.values())
    await world.settle()
    return world.states()


async def test_two_models_that_are_booted_for_one_another_are_worth_one_stop(worlds: Worlds) -> None:
    world, room = await idle_after(worlds, A, B)
    assert await look(world, room, IDLE_S - 1) == ["idle"]
    assert await look(world, room, 1) == ["empty"]
    await world.release(await world.lease(A))
    assert await look(world, room, IDLE_S) == ["idle"]
    assert await look(world, room, AGAIN_S) == ["empty"]


@pytest.mark.parametrize("models", [(A,), ("model://f/a", "model://f/b"), (A, "model://other/b?boot")])
async def test_what_needs_no_proof_is_left_alone(worlds: Worlds, models: tuple[str, ...]) -> None:
    """One model, two that are swapped already, two of two fingerprints."""
    world, room = await idle_after(worlds, *models)
    assert await look(world, room, IDLE_S) == ["idle"]


async def test_so_is_what_is_proven_or_refuted(worlds: Worlds) -> None:
    world, room = await idle_after(worlds, A, B)
    evidence = SwapEvidence(models=("a", "b"))
    proof = SwapProof(combination=COMBINATION, verdict="refuted", reason="", evidence=evidence)
    await world.coordinator.registry.proofs.hear(proof, world.agent.name)
    assert await look(world, room, IDLE_S) == ["idle"]


async def test_a_slot_that_is_leased_is_nobodys_to_empty(worlds: Worlds) -> None:
    world, room = await idle_after(worlds, A, B)
    await world.lease(B)
    assert await look(world, room, IDLE_S) == ["leased"]
