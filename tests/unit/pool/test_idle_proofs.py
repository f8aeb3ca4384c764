"""Proofs are made where nothing else is to be done, and are out of the way before anything else is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pilotlight_pool.agent.engine_instance import AgentSlot, EngineInstance
from pilotlight_pool.agent.idle_proofs import EMPTY_S, LONGEST_S, IdleProofs
from pilotlight_pool.agent.pending_proofs import AGAIN_S, FAILED_AGAIN_S, MOST_FINGERPRINTS, PendingProofs
from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_pool.agent_port import EngineGone
from pilotlight_pool.engine_orders import EngineOrder, Grant, ModelFacts, ModelOrder, SlotFacts
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof, Verdict

COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="fp8", scheme="", dtype="bfloat16", tied="true",
    device="cpu", capability="x", compiled=False, workers="1",
)  # fmt: skip


def order(
    key: str, fingerprint: str = "f", memory_bytes: int = 10, combination: Combination = COMBINATION
) -> EngineOrder:
    facts = ModelFacts(key, fingerprint, "fp8", 1, memory_bytes, "ram", swappable=False, combination=combination)
    return EngineOrder(ModelOrder(key), facts, key)


class FakeProver:
    """Takes 20 s, unless it is ended; `ended` counts its engines that were."""

    def __init__(self, verdict: Verdict = "proven", error: Exception | None = None) -> None:
        self.verdict: Verdict = verdict
        self.error = error
        self.asked: list[tuple[str, str, str]] = []
        self.running = 0
        self.ended = 0

    async def prove(self, slot: SlotFacts, a: EngineOrder, b: EngineOrder) -> SwapProof:
        self.asked.append((slot.slot_id, a.model_name, b.model_name))
        self.running += 1
        try:
            await asyncio.sleep(20.0)
            if self.error is not None:
                raise self.error
        finally:
            await asyncio.sleep(0.05)
            self.running -= 1
            self.ended += 1
        evidence = SwapEvidence(models=(a.model_name, b.model_name))
        return SwapProof(combination=COMBINATION, verdict=self.verdict, reason="", evidence=evidence)


class World:
    """Two slots of one CPU; `run` lets time pass."""

    def __init__(self, prover: FakeProver) -> None:
        self.prover = prover
        self.book = ProofBook(None, None)
        self.slots = [AgentSlot(SlotFacts(name, "cpu:0", 10, 1)) for name in ("one", "two")]
        self.told: list[SwapProof] = []
        clock = asyncio.get_running_loop().time
        self.proofs = IdleProofs(self.slots, prover, self.book, self.told.append, clock)
        self.task = asyncio.create_task(self.proofs.run())

    def load(self, slot: int, *, busy: bool = False, endpoint: str = "unix:///e.sock") -> EngineInstance:
        engine = EngineInstance(1, order("loaded"), None, busy=busy, endpoint=endpoint)
        self.slots[slot].engine = engine
        return engine

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.prover.running == 0


@pytest.mark.looptime
async def test_two_that_met_are_proven_once_a_slot_is_idle() -> None:
    world = World(FakeProver())
    for key in ("a", "a", "b"):
        world.proofs.pending.met(order(key))
    world.load(0)
    await asyncio.sleep(EMPTY_S - 2)
    assert not world.prover.asked
    await asyncio.sleep(30.0)
    assert world.prover.asked == [("two", "a", "b")]
    assert world.book.verdict(COMBINATION) == "proven"
    assert [proof.verdict for proof in world.told] == ["proven"]
    await asyncio.sleep(10 * AGAIN_S)
    assert len(world.prover.asked) == 1
    await world.end()


@pytest.mark.looptime
async def test_one_model_alone_proves_nothing_and_neither_do_two_that_never_could_be_swapped() -> None:
    world = World(FakeProver())
    world.proofs.pending.met(order("a"))
    world.proofs.pending.met(order("b", "another"))
    await asyncio.sleep(100.0)
    assert not world.prover.asked
    await world.end()


@pytest.mark.looptime
async def test_it_is_out_of_the_slot_before_an_engine_is_in_and_tried_again_later() -> None:
    world = World(FakeProver())
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    await asyncio.sleep(EMPTY_S + 5)
    assert world.prover.running == 1
    async with world.proofs.kept_out("one"):
        assert world.prover.running == 0
        await asyncio.sleep(AGAIN_S - 10)
        assert world.prover.running == 0
        await asyncio.sleep(15)
        assert world.prover.asked[-1][0] == "two", "the slot that is wanted is left alone"
    await asyncio.sleep(30.0)
    assert world.book.verdict(COMBINATION) == "proven"
    await world.end()


@pytest.mark.looptime
async def test_work_anywhere_on_the_cpu_ends_it_and_keeps_it_from_beginning() -> None:
    world = World(FakeProver())
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    engine = world.load(0)
    await asyncio.sleep(EMPTY_S + 5)
    assert world.prover.running == 1
    engine.busy = True
    world.proofs.work_began(world.slots[0].facts)
    world.proofs.work_began(world.slots[0].facts)
    await asyncio.sleep(1.0)
    assert world.prover.running == 0
    await asyncio.sleep(10 * AGAIN_S)
    assert len(world.prover.asked) == 1
    engine.busy = False
    await asyncio.sleep(30.0)
    assert world.book.verdict(COMBINATION) == "proven"
    await world.end()


@pytest.mark.looptime
async def test_what_is_leased_on_the_cpu_keeps_it_from_beginning() -> None:
    world = World(FakeProver())
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    world.load(0)
    world.slots[0].let_in(Grant("lease", "hash", "tenant", "m", "normal", "shared"), None)
    await asyncio.sleep(5 * EMPTY_S)
    assert not world.prover.asked
    world.slots[0].forget_grants()
    await asyncio.sleep(30.0)
    assert world.book.verdict(COMBINATION) == "proven"
    await world.end()


def test_what_is_swapped_already_is_not_proven_of_its_own_accord() -> None:
    pending = PendingProofs(lambda combination: None)
    for key in ("a", "b"):
        booted = order(key)
        pending.met(msgspec.structs.replace(booted, facts=msgspec.structs.replace(booted.facts, swappable=True)))
    assert pending.next(10, 0.0) is None


@pytest.mark.looptime
async def test_what_cannot_be_tried_waits_for_an_hour_and_an_engine_that_fails_for_less() -> None:
    world = World(FakeProver("failed"))
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    await asyncio.sleep(FAILED_AGAIN_S / 2)
    assert len(world.prover.asked) == 1
    world.prover.error = EngineGone("killed")
    await asyncio.sleep(FAILED_AGAIN_S)
    assert len(world.prover.asked) > 10
    await world.end()


@pytest.mark.looptime
async def test_a_bug_in_a_proof_is_no_end_of_the_agent() -> None:
    world = World(FakeProver(error=ZeroDivisionError("a bug")))
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    await asyncio.sleep(FAILED_AGAIN_S / 4)
    assert len(world.prover.asked) == 1
    assert not world.task.done()
    await world.end()


@pytest.mark.looptime
async def test_who_asks_waits_for_an_empty_slot_and_no_longer_than_it_said() -> None:
    world = World(FakeProver("refuted"))
    engines = [world.load(0), world.load(1)]
    with pytest.raises(Unavailable, match="no slot"):
        await world.proofs.prove(order("a"), order("b"), 5.0)
    asking = asyncio.create_task(world.proofs.prove(order("a"), order("b"), 60.0))
    await asyncio.sleep(3.0)
    world.slots[1].engine = None
    assert (await asking).verdict == "refuted"
    assert world.prover.asked == [("two", "a", "b")]
    assert engines[0] is world.slots[0].engine
    asking = asyncio.create_task(world.proofs.prove(order("a"), order("b"), 60.0))
    await asyncio.sleep(3.0)
    async with world.proofs.kept_out("two"):
        with pytest.raises(Unavailable, match="gave way"):
            await asking
    await world.end()


@pytest.mark.looptime
async def test_one_that_takes_too_long_is_ended() -> None:
    prover = FakeProver()
    world = World(prover)

    async def forever(slot: SlotFacts, a: EngineOrder, b: EngineOrder) -> SwapProof:
        await asyncio.sleep(1e9)
        raise AssertionError

    prover.prove = forever  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.proofs.prove(order("a"), order("b"), 0.0)
    assert asyncio.get_running_loop().time() >= LONGEST_S
    await world.end()


def test_what_does_not_fit_is_left_and_the_oldest_is_forgotten(tmp_path: Path) -> None:
    pending = PendingProofs(lambda combination: None)
    for number in range(MOST_FINGERPRINTS + 1):
        combination = msgspec.structs.replace(COMBINATION, scheme=str(number))
        for key in "ab":
            pending.met(order(f"{number}{key}", str(number), memory_bytes=number, combination=combination))
    found = pending.next(1, 0.0)
    assert found is not None
    assert [each.model_name for each in found] == ["1a", "1b"], "number 0 was forgotten, all others are too large"
    assert pending.next(0, 0.0) is None


@pytest.mark.looptime
async def test_a_boot_in_another_slot_has_the_cpu_for_itself() -> None:
    world = World(FakeProver())
    for key in ("a", "b"):
        world.proofs.pending.met(order(key))
    engine = world.load(0, endpoint="")
    await asyncio.sleep(10 * EMPTY_S)
    assert not world.prover.asked
    engine.endpoint = "unix:///e.sock"
    await asyncio.sleep(5)
    assert world.prover.running == 1
    async with world.proofs.kept_out("one"):
        assert world.prover.running == 0, "it is in the other slot, and the CPU is the same"
    await world.end()
