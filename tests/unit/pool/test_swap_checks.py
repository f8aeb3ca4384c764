"""What an agent remembers of swaps: which is believed, which is tried again, and no more than it has room for."""

from __future__ import annotations

import msgspec
import pytest

from pilotlight_pool.agent import swap_checks
from pilotlight_pool.agent.swap_checks import SwapChecks
from pilotlight_pool.agent_port import SwapFailed
from pilotlight_pool.engine_orders import ModelFacts
from pilotlight_protocol.engine_frames import SwapCheck
from pilotlight_protocol.swap_proofs import Combination, Verdict

KIND = ("model", "fingerprint")
COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="gptq", scheme="", dtype="float16", tied="true",
    device="cpu", capability="x", compiled=False, workers="1",
)  # fmt: skip
FACTS = ModelFacts(*KIND, "gptq", 1, 2, "ram", swappable=True, combination=COMBINATION)


@pytest.mark.parametrize("verdict", ["proven", "refuted", "failed", None])
def test_what_is_not_proven_is_not_swapped(verdict: Verdict | None) -> None:
    asked: list[Combination | None] = []

    def told(combination: Combination | None) -> Verdict | None:
        asked.append(combination)
        return verdict

    assert SwapChecks(lambda: 0.0, told).as_proven(FACTS).swappable == (verdict == "proven")
    assert asked == [COMBINATION]


@pytest.mark.parametrize(
    ("found", "believed"),
    [
        (SwapCheck(7, -0.5), True),
        (SwapCheck(7, -0.51), True),
        (SwapCheck(7, -0.6), False),
        (SwapCheck(8, -0.5), False),
    ],
)
def test_a_swapped_engine_says_what_a_booted_one_said(found: SwapCheck, believed: bool) -> None:
    checks = SwapChecks(lambda: 0.0, lambda combination: None)
    checks.compare(KIND, found)  # nothing is known yet
    checks.booted(KIND, SwapCheck(7, -0.5))
    if believed:
        checks.compare(KIND, found)
        return
    with pytest.raises(SwapFailed, match="first token"):
        checks.compare(KIND, found)


@pytest.mark.parametrize(("verdict", "swapped"), [(None, True), ("failed", True), ("refuted", False)])
def test_what_our_tests_compare_is_believed_until_it_is_refuted_here(verdict: Verdict | None, swapped: bool) -> None:
    facts = msgspec.structs.replace(FACTS, quantization="awq")
    assert SwapChecks(lambda: 0.0, lambda combination: verdict).as_proven(facts).swappable == swapped


def test_what_failed_is_not_tried_again_for_a_while() -> None:
    now_s = [0.0]
    checks = SwapChecks(lambda: now_s[0], lambda combination: "proven")
    assert checks.as_proven(FACTS).swappable
    checks.failed(KIND)
    assert not checks.as_proven(FACTS).swappable
    now_s[0] = swap_checks.UNSWAPPABLE_S
    assert checks.as_proven(FACTS).swappable


def test_all_it_remembers_is_bounded_and_the_oldest_goes_first() -> None:
    checks = SwapChecks(lambda: 0.0, lambda combination: None)
    kinds = [(f"m{n}", "f") for n in range(swap_checks.MOST_KINDS + 1)]
    for kind in (*kinds[:-1], kinds[0], kinds[-1]):
        checks.failed(kind)
        checks.booted(kind, SwapCheck(1, 0.0))
    for known in vars(checks).values():
        if isinstance(known, dict):
            assert len(known) == swap_checks.MOST_KINDS
            assert kinds[0] in known
            assert kinds[1] not in known
