"""Churn's judge finds what it is there to find: another's answer, cache or process, and a false excuse."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from churn_harness.models import Endpoint, with_answers
from churn_harness.tally import BLAME_S, Tally

pytestmark = pytest.mark.integration


def endpoint(name: str, answer: tuple[int, ...], tenant: str = "a") -> Endpoint:
    bare = Endpoint(name, Path(f"/models/{name}"), tenant, {}, ((1, 2),), 0.25, len(answer))
    return with_answers(bare, (answer,), ([1.0] * len(answer),))


ONE, OTHER = endpoint("one", (5, 6, 7)), endpoint("other", (8, 9, 8))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([8, 9, 8], "the answer of other"),
        ([5, 6, 8], "unlike its own from 2 on"),
        ([5, 6], "2 tokens"),
        ([5, 6, 7, 7], "4 tokens"),
    ],
)
def test_any_other_answer_is_wrong(tokens: list[int], words: str) -> None:
    tally = Tally()
    tally.knows([ONE, OTHER])
    tally.completes(ONE, 0, tokens, "lease", 0.1)
    assert not tally.completed
    assert words in tally.wrong[0]


def test_only_what_follows_a_near_tie_is_not_compared() -> None:
    tied = with_answers(ONE, ((5, 6, 7),), ([1.0, 0.1, 1.0],))
    tally = Tally()
    tally.completes(tied, 0, [5, 9, 9], "lease", 0.1)
    assert not tally.wrong
    tally.completes(tied, 0, [9, 6, 7], "lease", 0.1)
    assert len(tally.wrong) == 1


def test_what_a_tenant_has_not_sent_must_not_be_cached_for_it() -> None:
    tally, neighbour = Tally(), dataclasses.replace(ONE, tenant="b")
    tally.asks(ONE)
    tally.asks(ONE)
    for path in ("loaded", "share", ""):
        tally.cached(ONE, 384, path)
    assert not tally.wrong
    tally.asks(neighbour)
    tally.cached(neighbour, 384, "loaded")
    assert "never sent" in tally.wrong[0]
    tally.cached(ONE, 384, "swap")
    assert "after a swap" in tally.wrong[1]


def test_isolation_counts_both_ways() -> None:
    tally = Tally()
    tally.served("engine 1", "a", "shared")
    tally.served("engine 1", "b", "shared")
    tally.served("engine 2", "a", "reset")
    tally.served("engine 2", "a", "shared")
    assert not tally.wrong
    tally.served("engine 1", "c", "reset")
    tally.served("engine 2", "b", "shared")
    assert len(tally.wrong) == 2


def test_a_broken_connection_is_excused_by_its_own_kill_alone() -> None:
    tally, now_s = Tally(), time.monotonic()
    tally.kills_now("predictor", "churn-01")
    assert tally.is_excused("churn-01", now_s)
    assert tally.is_excused("churn-01", now_s - 60.0)
    assert not tally.is_excused("churn-01", now_s + BLAME_S + 1.0)
    assert not tally.is_excused("service", now_s)
