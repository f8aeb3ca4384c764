"""Which replica gets a request: rules one by one, and what comes of them over many requests."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.balancing.engine_metrics import EngineMetrics, read_metrics
from pilotlight_gateway.balancing.replica_choice import (
    ChoiceSettings,
    ChosenReplica,
    Replica,
    another_admits,
    choose,
    prefix_of,
)
from pilotlight_gateway.resilience.breaker import Breaker, BreakerSettings

SETTINGS = ChoiceSettings()
BODY = b'{"model": "m", "messages": [{"role": "system", "content": "' + b"x" * 2000 + b'"}]}'


def replicas(count: int) -> list[Replica]:
    return [Replica(f"r{number}", Breaker(BreakerSettings())) for number in range(count)]


def broken(replica: Replica) -> None:
    for _ in range(BreakerSettings().min_requests):
        permit = replica.breaker.admit(0.0)
        assert permit is not None
        replica.breaker.failed(permit, 0.0)


def place(made: list[Replica], prefix: int | None = None, tried: tuple[int, ...] = (), draw: float = 0.0) -> int:
    chosen = choose(made, prefix, tried, 0.1, (draw, draw), SETTINGS)
    assert chosen is not None
    return chosen.place


def test_the_shorter_wait_of_two() -> None:
    made = replicas(2)
    made[0].load.begin(1000)
    assert place(made) == 1
    made[1].load.begin(3000)
    assert place(made) == 0
    made[0].load.rate *= 10
    made[0].load.begin(4000)
    assert place(made) == 0, "faster hardware has a shorter wait with more tokens"


def test_what_is_left_out() -> None:
    made = replicas(3)
    broken(made[0])
    assert place(made) in (1, 2)
    assert place(made, tried=(1,)) == 2
    made[2].load.tell(EngineMetrics(0.0, 0, 0.95, 0), busy=False)
    assert place(made) == 1
    assert place(made, tried=(1,)) == 2, "over the watermark, but no other is left"
    broken(made[1])
    assert place(made) == 2
    assert another_admits(made, (0,), 0.1)
    assert not another_admits(made, (2,), 0.1)
    broken(made[2])
    assert choose(made, None, (), 0.1, (0, 0), SETTINGS) is None


@given(st.integers(0, 2**32), st.integers(2, 16))
def test_a_prefix_has_one_favourite_and_keeps_it_when_another_goes(prefix: int, count: int) -> None:
    made = replicas(count)
    favourite = place(made, prefix)
    assert all(place(made, prefix, draw=draw) == favourite for draw in (0.1, 0.5, 0.9))
    others = [replica for number, replica in enumerate(made) if number != (favourite + 1) % count]
    assert others[place(others, prefix)].name == made[favourite].name
    made[favourite].load.begin(SETTINGS.spill_s * made[favourite].load.rate * 100)
    assert place(made, prefix) != favourite, "far above the mean, others get it"


def test_prefixes_are_spread_over_replicas_and_told_apart() -> None:
    made = replicas(4)
    favourites = [place(made, prefix_of(BODY.replace(b"xx", f"{number}".encode()), "t")) for number in range(400)]
    assert all(60 < favourites.count(number) < 140 for number in range(4)), [favourites.count(n) for n in range(4)]
    assert prefix_of(BODY, "t") == prefix_of(BODY.replace(b'"m"', b'"n"') + b" ", "t") != prefix_of(BODY, "other")
    assert prefix_of(b'{"messages": "short"}', "t") is None
    assert prefix_of(b"", "t") is None


@given(st.floats(0, 60), st.integers(0, 50))
def test_a_stale_word_counts_nothing_and_no_word_makes_a_wait_shorter(age_s: float, requests: int) -> None:
    (replica,) = replicas(1)
    replica.load.begin(100)
    own_s = replica.load.wait_s(0.0)
    replica.load.tell(EngineMetrics(0.0, requests, 0.99, 0), busy=True)
    wait_s = replica.load.wait_s(age_s)
    assert wait_s >= own_s
    if age_s >= 5 or requests <= 1:
        assert wait_s == own_s
    assert (replica.load.full_until_s > age_s) == (age_s < 5)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1)), max_size=20))
def test_what_began_and_ended_is_nothing(requests: list[tuple[float, float]]) -> None:
    (replica,) = replicas(1)
    for tokens, _ in requests:
        replica.load.begin(tokens)
    for tokens, share in requests:
        replica.load.passed(tokens * share)
        replica.load.end(tokens * (1 - share), tokens)
    assert replica.load.requests == 0
    assert replica.load.tokens == pytest.approx(0, abs=1e-6)


def test_the_rate_is_measured_while_there_is_work() -> None:
    (replica,) = replicas(1)
    for second in range(5):
        replica.load.tell(EngineMetrics(float(second), 4, 0.1, 900.0 * second), busy=True)
    assert replica.load.rate == pytest.approx(900)
    replica.load.tell(EngineMetrics(5.0, 0, 0.1, 3600.0), busy=False)
    replica.load.tell(EngineMetrics(6.0, 0, 0.1, 0.0), busy=True)  # it was started anew
    assert replica.load.rate == pytest.approx(900)


def test_metrics_are_read_by_vllms_names() -> None:
    text = b"""# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:generation_tokens_total 1e+03
"""
    assert read_metrics(text, 7.0) == EngineMetrics(7.0, 9.0, 0.5, 1000.0)
    assert read_metrics(b"up 1\n", 7.0) is None
    assert read_metrics(b"vllm:num_requests_running NaN\n", 7.0) is None


Chooser = Callable[[list[Replica], float, random.Random], int]


def ours(made: list[Replica], now_s: float, draws: random.Random) -> int:
    chosen = choose(made, None, (), now_s, (draws.random(), draws.random()), SETTINGS)
    assert isinstance(chosen, ChosenReplica)
    return chosen.place


def at_random(made: list[Replica], now_s: float, draws: random.Random) -> int:
    return int(draws.random() * len(made))


class RoundRobin:
    def __init__(self) -> None:
        self.turn = -1

    def __call__(self, made: list[Replica], now_s: float, draws: random.Random) -> int:
        self.turn += 1
        return self.turn % len(made)


def by_metrics_alone(told: list[float]) -> Chooser:
    """What a balancer does that believes the last scrape."""
    return lambda made, now_s, draws: min(range(len(made)), key=lambda number: told[number])


def spread(chooser: Chooser, seed: int, *, scraped_every_s: float = 1.0, told: list[float] | None = None) -> float:
    """The mean over time of the fullest replica's share over the mean, for 40 s of requests of very different sizes."""
    draws, made = random.Random(seed), replicas(8)
    running: list[tuple[float, int, float]] = []
    worst: list[float] = []
    now_s, scraped_s = 0.0, 0.0
    while now_s < 40:
        now_s += draws.expovariate(50)
        for end_s, number, tokens in [each for each in running if each[0] <= now_s]:
            running.remove((end_s, number, tokens))
            made[number].load.end(tokens, tokens)
        work = [sum(tokens for _, number, tokens in running if number == each) for each in range(8)]
        if now_s - scraped_s >= scraped_every_s:
            scraped_s = now_s
            for number, replica in enumerate(made):
                requests = sum(each[1] == number for each in running)
                replica.load.tell(EngineMetrics(now_s, requests, 0.1, 0.0), busy=False)
                if told is not None:
                    told[number] = work[number]
        if now_s > 5:
            worst.append(max(work) / (statistics.mean(work) or 1))
        number, tokens = chooser(made, now_s, draws), draws.choice([50.0, 100.0, 200.0, 3000.0])
        made[number].load.begin(tokens)
        running.append((now_s + tokens / 500, number, tokens))
    return statistics.mean(worst)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_load_is_spread_better_than_by_chance_or_by_turns(seed: int) -> None:
    balanced = spread(ours, seed)
    assert balanced < spread(at_random, seed) * 0.85
    assert balanced < spread(RoundRobin(), seed) * 0.9


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("scraped_every_s", [1.0, 10.0, 1000.0])
def test_stale_metrics_make_no_herd(seed: int, scraped_every_s: float) -> None:
    told = [0.0] * 8
    herd = spread(by_metrics_alone(told), seed, scraped_every_s=scraped_every_s, told=told)
    assert spread(ours, seed, scraped_every_s=scraped_every_s) < min(2.2, herd * 0.7)
