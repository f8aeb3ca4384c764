"""Which overdue engines go: as many as there are slots wanted for others, and what has idled for too long."""

import pytest

from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.keep_warm.uncontested import Demand, Overdue, contested_slots, to_stop

SPEC = KeepAliveSpec(price_slot_s=300.0, uncontested_s=3600.0)
NOW_S = 10_000.0


def wanted(fingerprint: str, k: int = 1, ago_s: float | None = 10.0) -> Demand:
    return Demand(fingerprint, k, None if ago_s is None else NOW_S - ago_s)


@pytest.mark.parametrize(
    ("demands", "engines", "empty", "contested"),
    [
        ([], {"f": 1}, 0, 0),
        ([wanted("f")], {"f": 1}, 0, 0),
        ([wanted("f"), wanted("g")], {"f": 1}, 0, 1),
        ([wanted("f"), wanted("g")], {"f": 1}, 1, 0),
        ([wanted("f"), wanted("g"), wanted("h")], {"f": 1}, 1, 1),
        ([wanted("f"), wanted("g", ago_s=301.0)], {"f": 1}, 0, 0),
        ([wanted("f"), wanted("g", ago_s=None)], {"f": 1, "g": 1}, 0, 0),
        ([wanted("f"), wanted("g", 1, None), wanted("g", 2), wanted("g", 3)], {"f": 1, "g": 1}, 0, 2),
        ([wanted("f", 3)], {"f": 1}, 0, 2),
    ],
    ids=[
        "nobody came",
        "its own endpoints only",
        "another architecture lately",
        "for which a slot is empty",
        "two, and one is empty",
        "it came too long ago to be worth a slot",
        "it works, and has its engine",
        "it had work for three and has one",
        "so had its own: more of the same is contested too",
    ],
)
def test_slots_that_are_wanted_beyond_the_empty_ones(
    demands: list[Demand], engines: dict[str, int], empty: int, contested: int
) -> None:
    assert contested_slots(SPEC, demands, engines, empty, NOW_S) == contested


@pytest.mark.parametrize(
    ("spec", "contested", "stopped"),
    [
        (SPEC, 0, {"old"}),
        (SPEC, 1, {"old"}),
        (SPEC, 2, {"old", "least"}),
        (SPEC, 9, {"old", "least", "most"}),
        (KeepAliveSpec(uncontested_s=0.0), 0, {"old", "least", "most"}),
        (KeepAliveSpec(price_slot_s=0.0), 0, {"old", "least", "most"}),
        (KeepAliveSpec(uncontested_s=float("inf")), 0, set()),
    ],
    ids=[
        "idle power has its bound",
        "one is wanted, and one goes anyhow",
        "used longest ago first",
        "all are wanted",
        "idle power costs too much",
        "nothing is kept",
        "idle power costs nothing",
    ],
)
def test_what_goes(spec: KeepAliveSpec, contested: int, stopped: set[str]) -> None:
    overdue = [Overdue("most", 400.0, 3.0), Overdue("least", 500.0, 1.0), Overdue("old", 4000.0, 9.0)]
    assert set(to_stop(spec, overdue, contested)) == stopped
