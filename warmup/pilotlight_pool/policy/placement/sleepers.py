"""Which engines of a slot sleep, and which of them is woken (CUDA: vLLM's sleep mode, weights in pinned host memory).

A sleeping engine keeps its process, its compiled graphs and its weights, and gives the device's memory up but for its
context. Waking it costs a copy; waking one of the same fingerprint and swapping its weights is still far cheaper than
a fork. The tier is bounded in bytes and in number, and those used longest ago go. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pilotlight_pool.policy.leases.isolation import may_reuse
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine


@dataclass(frozen=True, slots=True)
class SleepBudget:
    """Of one slot. `most` engines, because each keeps a context on the device; `host_bytes` for their weights."""

    most: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Sleeper:
    """`incarnation`: the agent's number of the process. `used_s`: when its model was last used."""

    incarnation: int
    engine: Engine
    weights_bytes: int
    used_s: float


def make_room(budget: SleepBudget, sleepers: Iterable[Sleeper], newcomer: Sleeper) -> tuple[int, ...] | None:
    """The processes to end so that `newcomer` may fall asleep, used longest ago first; None: it is to be stopped.

    It is stopped when it does not fit at all, or when something used later would have to go for it.
    """
    if budget.most < 1 or newcomer.weights_bytes > budget.host_bytes:
        return None
    kept = sorted(sleepers, key=lambda each: (each.used_s, each.incarnation))
    ended: list[int] = []
    while len(kept) >= budget.most or sum(s.weights_bytes for s in kept) + newcomer.weights_bytes > budget.host_bytes:
        oldest = kept.pop(0)
        if oldest.used_s > newcomer.used_s:
            return None
        ended.append(oldest.incarnation)
    return tuple(ended)


def to_wake(sleepers: Iterable[Engine], wish: LeaseWish, *, swappable: bool) -> Engine | None:
    """The engine of its fingerprint to wake for a wish: one with its model, or else one to be swapped to it."""
    usable = [
        each
        for each in sleepers
        if each.fingerprint == wish.fingerprint and may_reuse(each.tenant, each.isolation, wish)
    ]
    for each in usable:
        if each.model == wish.model:
            return each
    return usable[0] if usable and swappable else None
