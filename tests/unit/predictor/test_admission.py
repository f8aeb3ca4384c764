"""The admission policy: the queue bound, the KV watermark, and how long a refused client is told to wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pilotlight_predictor.admission import (
    AdmissionLimits,
    Admit,
    EngineLoad,
    Estimate,
    Refuse,
    admit,
    retry_after_s,
)

LIMITS = AdmissionLimits(max_queue=4, kv_watermark=0.9, block_size=16, num_kv_blocks=100)
BUSY = EngineLoad(in_flight=2, running=2, waiting=0, kv_cache_usage=0.1, promised_tokens=100, tokens_per_s=100)
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
    decision = admit(LIMITS, load, estimate)
    if reason is None:
        assert isinstance(decision, Admit), case
    else:
        assert isinstance(decision, Refuse), case
        assert decision.reason == reason, case


@pytest.mark.parametrize(
    ("tokens", "rate", "seconds"),
    [(500, 100, 5), (1, 100, 1), (1_000_000, 100, 60), (500, 0, 5)],
    ids=["measured", "at least a second", "at most a minute", "nothing measured yet"],
)
def test_retry_after_is_the_measured_time_within_bounds(tokens: float, rate: float, seconds: float) -> None:
    assert retry_after_s(tokens, rate) == seconds


def test_a_longer_queue_means_a_longer_wait() -> None:
    waits = []
    for in_flight in (6, 60, 600):
        decision = admit(LIMITS, replace(BUSY, in_flight=in_flight), SMALL)
        assert isinstance(decision, Refuse)
        waits.append(decision.retry_after_s)
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]
