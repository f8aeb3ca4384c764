"""Rollouts: how often one is taken back that does no worse, how soon one that does, and what survives.

Simulated with fixed seeds: what is asked holds for the test's promise, with room for what a few hundred runs can show.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight_gateway.rollout.rollout import Rollout, RolloutState
from pilotlight_gateway.rollout.rollout_spec import STEPS, RolloutSpec
from pilotlight_gateway.rollout.rollouts import FILE_NAME, Rollouts
from pilotlight_gateway.rollout.two_samples import TwoSamples
from pilotlight_gateway.routing.route_spec import CanarySpec, RouteSpec

Rate = Callable[[float], float]
SPEC = RolloutSpec(step_s=100.0, min_requests=50)


def alarms(canary: Rate, baseline: Rate, blocks: int, k: int, seed: int, bound: float = math.log(20)) -> int | None:
    """After how many blocks the evidence passes the bound. The rates are functions of the time, from 0 to 1."""
    chance, test = random.Random(seed), TwoSamples()
    for number in range(blocks):
        now = number / blocks
        test.observe(chance.random() < canary(now), [chance.random() < baseline(now) for _ in range(k)])
        if test.log_evidence >= bound:
            return number + 1
    return None


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(
    "rate",
    [lambda now: 0.0, lambda now: 0.002, lambda now: 0.05, lambda now: 0.5, lambda now: 0.3 * (0.4 < now < 0.6)],
    ids=["none", "rare", "some", "half", "an incident of both"],
)
def test_equal_rates_seldom_raise_an_alarm_however_often_one_looks(rate: Rate, k: int) -> None:
    runs = 60
    raised = sum(alarms(rate, rate, 400, k, seed) is not None for seed in range(runs))
    # 5 % of the runs at most; six of sixty come of that with a probability of 5 % still.
    assert raised <= 6


def test_a_canary_that_does_better_raises_none() -> None:
    assert not any(alarms(lambda now: 0.01, lambda now: 0.1, 400, 4, seed) for seed in range(30))


@pytest.mark.parametrize(("baseline", "times", "within"), [(0.02, 3, 1000), (0.1, 3, 200), (0.01, 30, 60), (0.0, 1, 1)])
def test_a_higher_rate_is_found_within(baseline: float, times: int, within: int) -> None:
    """With the bound that a rollout of five steps has."""
    worse = baseline * times if baseline else 0.9
    within = within if baseline else 20
    found = [
        alarms(lambda now: worse, lambda now: baseline, within, 4, seed, bound=math.log(160)) is not None
        for seed in range(20)
    ]
    assert sum(found) >= 18


def run(
    spec: RolloutSpec,
    requests: int,
    seed: int,
    fails: tuple[float, float],
    slower: float = 1.0,
    rollout: Rollout | None = None,
) -> Rollout:
    """`requests` each a second after the last one. `fails`: of the canary, of the baseline."""
    chance = random.Random(seed)
    made = rollout or Rollout(spec, RolloutState(0.0))
    for now_s in range(requests):
        is_canary = chance.random() * 100 < made.share
        failed = chance.random() < fails[0 if is_canary else 1]
        first_event_s = chance.lognormvariate(-2, 0.5) * (slower if is_canary else 1.0)
        made.observe(is_canary, failed, first_event_s, float(now_s))
    return made


def test_one_that_does_no_worse_gets_everything_in_steps() -> None:
    shares = []
    rollout = Rollout(SPEC, RolloutState(0.0))
    chance = random.Random(1)
    for now_s in range(12_000):
        is_canary = chance.random() * 100 < rollout.share
        if rollout.observe(is_canary, chance.random() < 0.01, chance.expovariate(10), float(now_s)):
            shares.append(rollout.share)
    assert (1.0, *shares) == STEPS
    assert not rollout.state.taken_back


def test_whole_rollouts_are_seldom_taken_back() -> None:
    spec = RolloutSpec(step_s=50.0, min_requests=40, steps=(10.0, 50.0, 100.0))
    taken_back = sum(bool(run(spec, 1200, seed, (0.05, 0.05)).state.taken_back) for seed in range(40))
    assert taken_back <= 4


@pytest.mark.parametrize(("fails", "slower", "why"), [((0.5, 0.01), 1.0, "failed"), ((0.0, 0.0), 3.0, "begin later")])
def test_one_that_does_worse_is_taken_back_for_good(fails: tuple[float, float], slower: float, why: str) -> None:
    rollout = run(RolloutSpec(steps=(10.0, 100.0), step_s=1e9), 3000, 3, fails, slower)
    assert why in rollout.state.taken_back
    assert rollout.share == 0
    assert run(rollout.spec, 500, 4, (0.0, 0.0), rollout=rollout).share == 0


def test_what_is_tolerated_is_no_reason() -> None:
    spec = RolloutSpec(steps=(50.0, 100.0), step_s=1e9, tolerated_ttft_ratio=1.5)
    assert not any(run(spec, 1000, seed, (0.0, 0.0), slower=1.4).state.taken_back for seed in range(8))


def canary(percent_steps: tuple[float, ...] = (50.0, 100.0), target: str = "a/next") -> RouteSpec:
    rollout = RolloutSpec(steps=percent_steps, step_s=10.0, min_requests=5)
    return RouteSpec(name="chat", targets=("a/b",), canary=CanarySpec(targets=(target,), rollout=rollout))


async def test_what_was_taken_back_stays_so_until_the_configuration_says_something_else(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    rollouts = Rollouts(file, wall_s=lambda: 7.0)
    rollouts.apply([canary()])
    assert rollouts.share(canary()) == 50
    for _ in range(60):
        rollouts.observe(canary(), False, False, None)
        rollouts.observe(canary(), True, True, None)
    assert rollouts.share(canary()) == 0
    rollouts.apply([canary(), RouteSpec(name="other", targets=("a/b",))])
    assert rollouts.share(canary()) == 0
    await rollouts.start()
    await rollouts.close()
    again = Rollouts(file, wall_s=lambda: 9.0)
    again.apply([canary()])
    assert again.share(canary()) == 0
    assert again.state(canary()) == rollouts.state(canary())
    again.apply([canary(target="a/fixed")])
    assert again.share(canary(target="a/fixed")) == 50


def test_a_state_that_cannot_be_read_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"{")
    rollouts = Rollouts(tmp_path / FILE_NAME)
    rollouts.apply([canary()])
    assert rollouts.share(canary()) == 50
