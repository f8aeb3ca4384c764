"""What one agent has proven, agents of the same kind need not: the coordinator passes it on, and shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from asgi_client import ask
from coordinator_world import World, Worlds
from memory_agent import MemoryAgent

from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_pool.coordinator.coordinator import CoordinatorSettings
from pilotlight_pool.coordinator.http_api import build_app
from pilotlight_pool.policy.leases.access import TRUSTED, Caller
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof, Verdict

pytestmark = pytest.mark.looptime

COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="fp8", scheme="", dtype="bfloat16", tied="true",
    device="cpu", capability="x", compiled=False, workers="1",
)  # fmt: skip
MODELS = ["model://f/a", "model://f/b"]


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    running = Worlds()
    yield running
    await running.end()


def proof(verdict: Verdict = "proven", **other: Any) -> SwapProof:
    combination = msgspec.structs.replace(COMBINATION, **other)
    return SwapProof(combination=combination, verdict=verdict, reason="", evidence=SwapEvidence(models=("a", "b")))


def agent(name: str, *known: SwapProof) -> MemoryAgent:
    made = MemoryAgent(f"{name}/0", name=name)
    made.combination = COMBINATION
    made.proofs = {each.combination.key: each for each in known}
    return made


async def asked(world: World, method: str, body: Any = None, caller: Caller = TRUSTED) -> tuple[int, Any]:
    app = build_app(world.coordinator, lambda: True, lambda authorization: caller)
    answer = await ask(app, method, "/v1/proofs", body=b"" if body is None else msgspec.json.encode(body))
    return answer.status, answer.json


async def test_a_proof_that_is_asked_for_is_made_shared_and_shown(worlds: Worlds) -> None:
    one, two = agent("one"), agent("two")
    world = await worlds.start(CoordinatorSettings(), one, two)
    await world.lease(MODELS[0])
    _, shown = await asked(world, "GET")
    assert [(line["name"], line["models"]) for line in shown["unproven"]] == [(COMBINATION.name, MODELS[:1])]
    status, made = await asked(world, "POST", {"models": MODELS})
    assert (status, made["verdict"]) == (200, "proven")
    await world.settle()
    assert one.proofs == two.proofs != {}
    _, shown = await asked(world, "GET")
    assert ([each["verdict"] for each in shown["proofs"]], shown["unproven"]) == (["proven"], [])


async def test_an_engine_that_idles_gives_way_to_it(worlds: Worlds) -> None:
    only = agent("only")
    world = await worlds.start(CoordinatorSettings(), only)
    await world.release(await world.lease(MODELS[0]))
    assert world.states() == ["idle"]
    assert (await asked(world, "POST", {"models": MODELS}))[0] == 200
    await world.settle()
    assert world.states() == ["empty"]


async def test_agents_that_come_later_learn_and_teach(worlds: Worlds) -> None:
    first = agent("first", proof(), proof("refuted", scheme="mine"))
    world = await worlds.start(CoordinatorSettings(), first)
    late = agent("late", proof(scheme="theirs"), proof("proven", scheme="mine"))
    await world.join(late)
    await world.settle()
    assert len(first.proofs) == len(late.proofs) == 3
    _, shown = await asked(world, "GET")
    assert sorted(each["verdict"] for each in shown["proofs"]) == ["proven", "proven", "refuted"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"models": MODELS[:1]}, "models"),
        ({"models": ["model://f/a", "model://other/b"]}, "one architecture"),
        ({"models": MODELS, "wait_s": 1e9}, "wait_s"),
        ({"models": MODELS, "wait": 1}, "wait"),
    ],
)
async def test_what_could_not_be_swapped_is_refused(worlds: Worlds, body: Any, words: str) -> None:
    world = await worlds.start(CoordinatorSettings(), agent("one"))
    status, told = await asked(world, "POST", body)
    assert status == 400
    assert words in told["error"]


async def test_proofs_are_the_operators(worlds: Worlds) -> None:
    world = await worlds.start(CoordinatorSettings(), agent("one"))
    tenant = Caller("somebody", operator=False)
    for method, body in (("GET", None), ("POST", {"models": MODELS})):
        assert (await asked(world, method, body, tenant))[0] == 403


@pytest.mark.parametrize(
    ("known", "told", "believed"),
    [
        (None, "proven", "proven"), (None, "refuted", "refuted"), ("proven", "refuted", "refuted"),
        ("refuted", "proven", "refuted"), ("failed", "proven", "proven"), ("proven", "failed", "proven"),
    ],
)  # fmt: skip
def test_a_refutation_is_believed_whoever_made_it(known: Verdict | None, told: Verdict, believed: Verdict) -> None:
    book = ProofBook(None, None)
    if known is not None:
        book.add(proof(known))
    book.learn([proof(told)])
    assert book.verdict(COMBINATION) == believed
