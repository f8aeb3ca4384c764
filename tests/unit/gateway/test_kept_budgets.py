"""Budgets over a restart: what is known again, what a kill loses, and a disk that fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_gateway.limits.accounts import MemoryAccounts
from pilotlight_gateway.limits.calendar_periods import DAY_S, day_of
from pilotlight_gateway.limits.kept_budgets import WRITE_S, KeptBudgets, TenantDay
from pilotlight_gateway.limits.limit_terms import Granted, LimitTerms, Refused
from pilotlight_gateway.limits.sqlite_budgets import SqliteBudgets
from pilotlight_protocol.errors import Unavailable

NOON_S = 1_795_867_200.0
TERMS = LimitTerms(tokens_per_day=100, tokens_per_month=150)


class Clock:
    now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


class Failing:
    """A store whose disk fails until it is mended."""

    def __init__(self) -> None:
        self.fails = True
        self.known: dict[TenantDay, int] = {}

    def since(self, day: int) -> dict[TenantDay, int]:
        return dict(self.known)

    def add(self, tokens: Mapping[TenantDay, int], forget_before: int) -> None:
        if self.fails:
            raise Unavailable("the disk is full")
        for key, taken in tokens.items():
            self.known[key] = self.known.get(key, 0) + taken

    def close(self) -> None:
        return


async def started(path: Path, clock: Clock) -> MemoryAccounts:
    accounts = MemoryAccounts(clock, budgets=KeptBudgets(SqliteBudgets(path), clock))
    await accounts.start()
    return accounts


async def took(accounts: MemoryAccounts, name: str, tokens: int) -> Granted | Refused:
    told = await accounts.reserve("team", TERMS, name, tokens)
    if isinstance(told, Granted):
        accounts.settle("team", name, tokens)
    return told


async def test_a_day_and_a_month_go_on_after_a_restart(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "state" / "budgets.sqlite3"
    accounts = await started(path, clock)
    await took(accounts, "a", 90)
    assert (await accounts.reserve("team", TERMS, "running", 5)).standing.tokens == 95
    accounts.settle("team", "running", 1)
    await accounts.close()
    assert path.stat().st_mode & 0o077 == 0

    accounts = await started(path, clock)
    told = await took(accounts, "b", 10)
    assert isinstance(told, Refused)
    assert told.spent == "tokens_per_day"
    assert isinstance(await took(accounts, "b", 9), Granted)
    assert isinstance(await accounts.reserve("other", TERMS, "c", 100), Granted)
    await accounts.close()

    clock.now_s += DAY_S
    accounts = await started(path, clock)
    told = await took(accounts, "d", 51)
    assert isinstance(told, Refused)
    assert told.spent == "tokens_per_month"
    assert isinstance(await took(accounts, "d", 50), Granted)
    clock.now_s += 3 * DAY_S
    assert isinstance(await took(accounts, "e", 100), Granted)
    await accounts.close()


@pytest.mark.looptime
async def test_a_killed_process_loses_no_more_than_its_last_second(tmp_path: Path) -> None:
    clock, store = Clock(), Failing()
    store.fails = False
    accounts = MemoryAccounts(clock, budgets=KeptBudgets(store, clock))
    await accounts.start()
    await accounts.reserve("team", TERMS, "runs on", 20)
    await took(accounts, "a", 30)
    await asyncio.sleep(WRITE_S * 1.5)
    await took(accounts, "too late", 3)
    # What runs when it is killed stays taken as it was reserved.
    assert store.known == {("team", day_of(NOON_S)): 50}
    await accounts.close()
    assert store.known == {("team", day_of(NOON_S)): 53}


@pytest.mark.looptime
async def test_a_disk_that_fails_for_a_while_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clock, store = Clock(), Failing()
    accounts = MemoryAccounts(clock, budgets=KeptBudgets(store, clock))
    await accounts.start()
    for number in range(4):
        await took(accounts, str(number), 10)
        await asyncio.sleep(WRITE_S)
    assert len(caplog.records) == 1
    store.fails = False
    await asyncio.sleep(WRITE_S * 1.5)
    assert store.known == {("team", day_of(NOON_S)): 40}
    await accounts.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 65), st.integers(0, 10**12), st.booleans()),
        max_size=12,
    )
)
def test_two_processes_add_up(
    tmp_path_factory: pytest.TempPathFactory, taken: list[tuple[str, int, int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("budgets") / "budgets.sqlite3"
    both = [SqliteBudgets(path), SqliteBudgets(path)]
    expected: dict[TenantDay, int] = {}
    for tenant, day, tokens, first in taken:
        both[first].add({(tenant, day): tokens}, forget_before=0)
        expected[tenant, day] = expected.get((tenant, day), 0) + tokens
    assert both[0].since(0) == both[1].since(0) == expected
    both[0].add({}, forget_before=10)
    assert both[1].since(0) == {key: tokens for key, tokens in expected.items() if key[1] >= 10}
    for each in both:
        each.close()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "budgets.sqlite3"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(Unavailable, match="budgets"):
        SqliteBudgets(path)
