"""A made-up week of many tenants' endpoints, from a seed: same seed, same trace.

    kind     share   its requests
    daily    40 %    working hours of its own time zone and weekdays mostly: sessions of a few requests
    bursty   30 %    sessions at any hour, hours apart, tens of requests each
    timer    15 %    every 10 minutes to 6 hours, to the second
    rare     15 %    a few single requests a day

Within a kind the rate of an endpoint is drawn from a log-normal distribution (sigma 1), so that a few are busy and
most are not, as in the Azure Functions trace. Durations are log-normal around 4 s (a few hundred tokens).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from pool_simulator.request_trace import Endpoint, Trace, build

_DAY_S = 86_400.0
_HOUR_S = 3_600.0


@dataclass(frozen=True, slots=True)
class SyntheticSpec:
    """`requests`: about how many; `fingerprints`: architectures that the endpoints are fine-tunes of (Zipf shares)."""

    endpoints: int = 200
    days: float = 7.0
    requests: int = 300_000
    fingerprints: int = 5
    seed: int = 1


def generate(spec: SyntheticSpec) -> Trace:
    """The trace. Endpoints per tenant: one to six."""
    chance = random.Random(spec.seed)
    endpoints = list(_endpoints(spec, chance))
    kinds = [_kind(index / spec.endpoints) for index in range(spec.endpoints)]
    chance.shuffle(kinds)
    rates = [chance.lognormvariate(0.0, 1.0) * _KIND_RATE[kind] for kind in kinds]
    per_rate = spec.requests / spec.days / sum(rates)
    requests: list[tuple[float, int, float]] = []
    for index, (kind, rate) in enumerate(zip(kinds, rates, strict=True)):
        arrivals = _ARRIVALS[kind](chance, rate * per_rate, spec.days * _DAY_S)
        requests.extend((at_s, index, min(120.0, chance.lognormvariate(math.log(4.0), 0.8))) for at_s in arrivals)
    return build(endpoints, requests)


def _endpoints(spec: SyntheticSpec, chance: random.Random) -> Iterator[Endpoint]:
    shares = [1.0 / (rank + 1) for rank in range(spec.fingerprints)]
    tenant = 0
    for index in range(spec.endpoints):
        tenant += chance.random() < 0.4
        # One fingerprint per endpoint means exactly that, not a draw with repetitions.
        own = spec.fingerprints >= spec.endpoints
        rank = index if own else chance.choices(range(spec.fingerprints), shares)[0]
        yield Endpoint(f"endpoint-{index}", f"tenant-{tenant}", f"architecture-{rank}")


def _kind(place: float) -> str:
    return "daily" if place < 0.4 else "bursty" if place < 0.7 else "timer" if place < 0.85 else "rare"


# Relative requests per day of a typical endpoint of the kind.
_KIND_RATE = {"daily": 6.0, "bursty": 3.0, "timer": 0.5, "rare": 0.05}


def _daily(chance: random.Random, per_day: float, span_s: float) -> Iterator[float]:
    opens_s = chance.uniform(0.0, _DAY_S)
    for begin_s in _poisson(chance, per_day / 5.0 * 2.5, span_s):
        hour = ((begin_s - opens_s) % _DAY_S) / _HOUR_S
        weekend = (begin_s // _DAY_S) % 7 >= 5
        # Nine hours of work with a dip at noon, and a trickle around them.
        busy = (0.95 if hour < 9.0 and not 4.0 < hour < 5.0 else 0.35 if hour < 9.0 else 0.02) * (0.1 if weekend else 1)
        if chance.random() < busy:
            yield from _session(chance, begin_s, mean_requests=5.0, think_s=25.0, span_s=span_s)


def _bursty(chance: random.Random, per_day: float, span_s: float) -> Iterator[float]:
    for begin_s in _poisson(chance, per_day / 40.0, span_s):
        yield from _session(chance, begin_s, mean_requests=40.0, think_s=8.0, span_s=span_s)


def _timer(chance: random.Random, per_day: float, span_s: float) -> Iterator[float]:
    period_s = min(6 * _HOUR_S, max(600.0, _DAY_S / max(per_day, 1e-6)))
    at_s = chance.uniform(0.0, period_s)
    while at_s < span_s:
        yield at_s
        at_s += period_s


def _rare(chance: random.Random, per_day: float, span_s: float) -> Iterator[float]:
    yield from _poisson(chance, per_day, span_s)


_ARRIVALS = {"daily": _daily, "bursty": _bursty, "timer": _timer, "rare": _rare}


def _session(
    chance: random.Random, begin_s: float, mean_requests: float, think_s: float, span_s: float
) -> Iterator[float]:
    at_s = begin_s
    while at_s < span_s:
        yield at_s
        if chance.random() < 1.0 / mean_requests:
            return
        at_s += chance.expovariate(1.0 / think_s)


def _poisson(chance: random.Random, per_day: float, span_s: float) -> Iterator[float]:
    at_s = 0.0
    while per_day > 0.0:
        at_s += chance.expovariate(per_day / _DAY_S)
        if at_s >= span_s:
            return
        yield at_s
