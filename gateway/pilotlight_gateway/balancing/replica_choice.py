"""Which replica gets a request. Pure.

    left out        breaker open; KV cache over the watermark; tried by this request: each unless none else is left
    prefix          the favourite of the prompt's beginning, by rendezvous hashing, unless it is far above the mean
    else            the shorter wait of two at random; what answers far later than it used to loses to what does not

Two at random, and own counts that change with every choice: whoever is the shortest now is not everybody's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pilotlight_gateway.balancing.replica_load import ReplicaLoad
from pilotlight_gateway.resilience.breaker import Breaker

Random = float
"""From 0 up to, but not, 1."""

_PREFIX_BYTES = 1024
_SHORTEST_PREFIX_BYTES = 256
_SEARCHED_BYTES = 4096
_BEGINNING = re.compile(rb'"(?:messages|prompt|input|text_input)"')
_MIX, _WORD = 0x9E3779B97F4A7C15, (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceSettings:
    """`spill`: a favourite may have so much of the mean wait more, and `spill_s` beside; the others get the rest."""

    spill: float = 0.5
    spill_s: float = 1.0


class Replica:
    """`name` tells it from the others, and decides whose favourite it is."""

    __slots__ = ("breaker", "load", "name", "seed")

    def __init__(self, name: str, breaker: Breaker, load: ReplicaLoad | None = None) -> None:
        self.name = name
        self.seed = zlib.crc32(name.encode())
        self.breaker = breaker
        self.load = load or ReplicaLoad()


@dataclass(frozen=True, slots=True)
class ChosenReplica:
    place: int
    why: str


def choose(
    replicas: Sequence[Replica],
    prefix: int | None,
    tried: Collection[int],
    now_s: float,
    draws: tuple[Random, Random],
    settings: ChoiceSettings,
) -> ChosenReplica | None:
    """None where no breaker admits a request. `draws`: two, at random."""
    admitting = [
        place for place, replica in enumerate(replicas) if replica.breaker.is_closed or replica.breaker.admits(now_s)
    ]
    if len(admitting) < 2:
        return ChosenReplica(admitting[0], "only") if admitting else None
    fresh = ([place for place in admitting if place not in tried] or admitting) if tried else admitting
    roomy = [place for place in fresh if replicas[place].load.full_until_s <= now_s] or fresh
    if len(roomy) == 1:
        return ChosenReplica(roomy[0], "only")
    if prefix is None:
        return ChosenReplica(_shorter(replicas, roomy, now_s, draws), "wait")
    favourite = _favourite(replicas, roomy, prefix)
    more_s = replicas[favourite].load.wait_s(now_s) - settings.spill_s
    is_near = more_s <= 0 or more_s <= _mean_s(replicas, roomy, now_s) * (1 + settings.spill)
    if is_near and not replicas[favourite].breaker.slow:
        return ChosenReplica(favourite, "prefix")
    return ChosenReplica(_shorter(replicas, roomy, now_s, draws), "spill")


def _favourite(replicas: Sequence[Replica], places: Sequence[int], prefix: int) -> int:
    """Rendezvous hashing: who comes or goes takes or leaves its own prefixes, and nobody else's."""
    ranks = [((prefix ^ replicas[place].seed) * _MIX) & _WORD for place in places]
    return places[ranks.index(max(ranks))]


def _mean_s(replicas: Sequence[Replica], places: Sequence[int], now_s: float) -> float:
    return sum([replicas[place].load.wait_s(now_s) for place in places]) / len(places)


def _shorter(replicas: Sequence[Replica], places: Sequence[int], now_s: float, draws: tuple[Random, Random]) -> int:
    count = len(places)
    first = int(draws[0] * count)
    second = (first + 1 + int(draws[1] * (count - 1))) % count
    pair = places[first], places[second]
    return min(pair, key=lambda place: (replicas[place].breaker.slow, replicas[place].load.wait_s(now_s)))


def another_admits(replicas: Sequence[Replica], tried: Collection[int], now_s: float) -> bool:
    """Whether one that this request has not tried takes requests now."""
    return any(replica.breaker.admits(now_s) for place, replica in enumerate(replicas) if place not in tried)


def prefix_of(body: bytes, tenant: str) -> int | None:
    """Of the prompt's beginning; None where it is too short to be worth a place of its own. Another tenant's is
    another."""
    begins = _BEGINNING.search(body, 0, _SEARCHED_BYTES)
    if begins is None or len(body) - begins.start() < _SHORTEST_PREFIX_BYTES:
        return None
    start = begins.start()
    return zlib.crc32(body[start : start + _PREFIX_BYTES], zlib.crc32(tenant.encode()))
