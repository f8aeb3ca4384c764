"""The admission policy: the queue bound, the KV watermark, and how long a refused client is told to wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest

from pilotlight_engine.admission import AdmissionLimits, Admit, EngineLoad, Estimate, Refuse, TurnedAway, admit

LIMITS = AdmissionLimits(max_queue=4, kv_watermark=0.9, block_size=16, num_kv_blocks=100)
BUSY = EngineLoad(
    in_flight=2, running=2, waiting=0, kv_cache_usage=0.1, promised_tokens=100, tokens_per_s=100,
    usual_output_tokens=40,
)  # fmt: skip
NOBODY = TurnedAway()
SMALL = Estimate(sequences=1, tokens=32, output_tokens=16)


@pytest.mark.parametrize(
    ("case", "load", "estimate", "reason"),
    [
        (
            "an idle engine takes what could never fit beside others",
            replace(BUSY, in_flight=0),
            Estimate(9, 9999, 9),
            None,
        ),
        ("room in both", BUSY, SMALL, None),
        ("the queue has one place left", replace(BUSY, in_flight=5), SMALL, None),
        ("the queue is full", replace(BUSY, in_flight=6), SMALL, "queue"),
        ("the engine reports more waiting than we count", replace(BUSY, waiting=4), SMALL, "queue"),
        ("a batch that does not fit the queue", BUSY, Estimate(5, 100, 16), "queue"),
        ("usage under the watermark: 86 + 3 blocks", replace(BUSY, kv_cache_usage=0.86), SMALL, None),
        ("usage over the watermark: 88 + 3 blocks", replace(BUSY, kv_cache_usage=0.88), SMALL, "kv_cache"),
        ("promises count before they are used: 85 + 2 + 3", replace(BUSY, promised_tokens=85 * 16), SMALL, None),
        ("promises over the watermark: 86 + 2 + 3", replace(BUSY, promised_tokens=86 * 16), SMALL, "kv_cache"),
        ("a request that is too large beside others", BUSY, Estimate(1, 1400, 16), "kv_cache"),
    ],
)
def test_admission(case: str, load: EngineLoad, estimate: Estimate, reason: str | None) -> None:
    decision, _ = admit(LIMITS, load, estimate, TurnedAway(), 0.0)
    if reason is None:
        assert isinstance(decision, Admit), case
    else:
        assert isinstance(decision, Refuse), case
        assert decision.reason == reason, case


def told(load: EngineLoad, turned_away: TurnedAway = NOBODY, now_s: float = 0.0) -> tuple[float, TurnedAway]:
    decision, turned_away = admit(LIMITS, load, SMALL, turned_away, now_s)
    assert isinstance(decision, Refuse)
    return decision.retry_after_s, turned_away


@pytest.mark.parametrize(
    ("in_flight", "rate", "seconds"),
    [(15, 100, 4), (6, 100, 1), (100_000, 100, 60), (15, 0, 5)],
    ids=["ten too many, 40 tokens each", "at least a second", "at most a minute", "nothing measured yet"],
)
def test_retry_after_is_the_measured_time_within_bounds(in_flight: int, rate: float, seconds: float) -> None:
    assert told(replace(BUSY, in_flight=in_flight, tokens_per_s=rate))[0] == seconds


def test_those_who_are_turned_away_are_told_one_after_the_other() -> None:
    full, waits = replace(BUSY, in_flight=15), []
    turned_away = NOBODY
    for _ in range(4):
        wait_s, turned_away = told(full, turned_away)
        waits.append(wait_s)
    assert waits == pytest.approx([4, 4.16, 4.32, 4.48])
    # A second later a hundred tokens more are done, and with them all of the 64 that the four will ask for.
    assert told(full, turned_away, now_s=1.0)[0] == pytest.approx(4)


@dataclass
class OverloadedEngine:
    """Batch of 8, 400 tokens/s between them, 16 may wait, 50 tokens a request: 8 requests a second. Virtual time."""

    left: list[float] = field(default_factory=list)
    turned_away: TurnedAway = NOBODY
    refusals: int = 0
    now_s: float = 0.0

    def advance(self, seconds: float) -> None:
        running = self.left[:8]
        for place in range(len(running)):
            self.left[place] -= seconds * 400 / len(running)
        self.left = [left for left in self.left if left > 0]
        self.now_s += seconds

    def ask(self) -> float | None:
        """None: it was taken; else the value of Retry-After."""
        running = min(8, len(self.left))
        load = EngineLoad(len(self.left), running, len(self.left) - running, 0.0, 0, 400.0, 50.0)
        limits = AdmissionLimits(16, 0.9, 16, 10_000)
        decision, self.turned_away = admit(limits, load, Estimate(1, 60, 50), self.turned_away, self.now_s)
        if isinstance(decision, Admit):
            self.left.append(50.0)
            return None
        self.refusals += 1
        return float(math.ceil(decision.retry_after_s))


def test_clients_that_obey_are_seldom_refused_twice_and_the_engine_is_never_idle() -> None:
    engine = OverloadedEngine()
    clients = [0.0] * 200
    while clients or engine.left:
        due = [at_s for at_s in clients if at_s <= engine.now_s]
        clients = [at_s for at_s in clients if at_s > engine.now_s]
        clients += [engine.now_s + wait_s for _ in due if (wait_s := engine.ask()) is not None]
        engine.advance(0.05)
    # 176 of 200 have to come back at least once; 200 / 8 = 25 s is what the work takes.
    assert engine.refusals < 1.5 * 176
    assert engine.now_s < 1.15 * 25
