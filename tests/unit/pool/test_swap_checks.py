"""What an agent remembers of swaps: which is believed, which is tried again, and no more than it has room for."""

from __future__ import annotations

import pytest

from pilotlight_pool.agent import swap_checks
from pilotlight_pool.agent.swap_checks import SwapChecks
from pilotlight_pool.agent_port import SwapFailed
from pilotlight_pool.engine_orders import ModelFacts
from pilotlight_protocol.engine_frames import SwapCheck

KIND = ("model", "fingerprint")
FACTS = ModelFacts(*KIND, "awq", 1, 2, "ram", swappable=True)


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
    checks = SwapChecks(lambda: 0.0)
    checks.compare(KIND, found)  # nothing is known yet
    checks.booted(KIND, SwapCheck(7, -0.5))
    if believed:
        checks.compare(KIND, found)
        return
    with pytest.raises(SwapFailed, match="first token"):
        checks.compare(KIND, found)


def test_what_failed_is_not_tried_again_for_a_while() -> None:
    now_s = [0.0]
    checks = SwapChecks(lambda: now_s[0])
    assert checks.as_proven(FACTS).swappable
    checks.failed(KIND)
    assert not checks.as_proven(FACTS).swappable
    now_s[0] = swap_checks.UNSWAPPABLE_S
    assert checks.as_proven(FACTS).swappable


def test_all_it_remembers_is_bounded_and_the_oldest_goes_first() -> None:
    checks = SwapChecks(lambda: 0.0)
    kinds = [(f"m{n}", "f") for n in range(swap_checks.MOST_KINDS + 1)]
    for kind in (*kinds[:-1], kinds[0], kinds[-1]):
        checks.failed(kind)
        checks.booted(kind, SwapCheck(1, 0.0))
    for known in vars(checks).values():
        if isinstance(known, dict):
            assert len(known) == swap_checks.MOST_KINDS
            assert kinds[0] in known
            assert kinds[1] not in known
