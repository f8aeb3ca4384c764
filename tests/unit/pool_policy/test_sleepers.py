"""The tier of sleeping engines: bounded in number and bytes, those used longest ago go."""

import pytest

from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.placement.sleepers import SleepBudget, Sleeper, make_room

GB = 10**9


def sleeper(incarnation: int, gb: float, used_s: float) -> Sleeper:
    return Sleeper(incarnation, Engine(f"m{incarnation}", "f"), int(gb * GB), used_s)


OLD, GOOD, NEW = sleeper(1, 8, 1.0), sleeper(2, 8, 5.0), sleeper(3, 8, 3.0)


@pytest.mark.parametrize(
    ("budget", "asleep", "ended"),
    [
        (SleepBudget(0, 100 * GB), [], None),
        (SleepBudget(2, 100 * GB), [], ()),
        (SleepBudget(2, 4 * GB), [], None),
        (SleepBudget(2, 100 * GB), [OLD], ()),
        (SleepBudget(2, 100 * GB), [OLD, GOOD], (1,)),
        (SleepBudget(1, 100 * GB), [GOOD], None),
        (SleepBudget(9, 16 * GB), [OLD, GOOD], (1,)),
        (SleepBudget(9, 8 * GB), [OLD, GOOD], None),
        (SleepBudget(9, 8 * GB), [OLD], (1,)),
    ],
)
def test_room_is_made_by_ending_what_was_used_longest_ago(
    budget: SleepBudget, asleep: list[Sleeper], ended: tuple[int, ...] | None
) -> None:
    assert make_room(budget, asleep, NEW) == ended
