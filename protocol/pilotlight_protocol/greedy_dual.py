"""What to drop when there is no room: greedy-dual with sizes and frequencies (GDSF; FaasCache, ASPLOS'21). Pure.

    priority = clock + frequency x cost / size        the lowest one goes; the clock then rises to its priority

The clock is the one of an entry's last use, so what is no longer used ages against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """`size` in the unit of the budget. What is `kept` is never dropped."""

    key: str
    size: int
    priority: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Victims:
    """`keys` in the order in which to drop them; `clock` is the one afterwards."""

    keys: tuple[str, ...]
    freed: int
    clock: float


def priority(clock: float, frequency: int, cost_s: float, size: float) -> float:
    """`cost_s`: predicted seconds to bring it back."""
    return clock + frequency * cost_s / size


def choose(entries: Iterable[Entry], short: int, clock: float) -> Victims:
    """What to drop for `short` more room; where even everything is not enough, `freed` is less than that."""
    keys: list[str] = []
    freed = 0
    for entry in sorted((entry for entry in entries if not entry.kept), key=lambda entry: (entry.priority, entry.key)):
        if freed >= short:
            break
        keys.append(entry.key)
        freed += entry.size
        clock = max(clock, entry.priority)
    return Victims(tuple(keys), freed, clock)
