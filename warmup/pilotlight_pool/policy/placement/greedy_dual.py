"""What to drop when a tier is full: greedy-dual with sizes and frequencies (GDSF; FaasCache, ASPLOS'21).

    priority = clock + frequency x cost / size        the lowest one goes; the clock then rises to its priority

`cost_s` is the predicted seconds to bring the entry back, `size` what it takes of the budget (bytes on disk or in
RAM, 1 for an engine in a slot). The clock ages entries that are no longer used. One state per tier. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Entry:
    size: int
    cost_s: float
    frequency: int
    priority: float


@dataclass(frozen=True, slots=True)
class GreedyDualState:
    clock: float = 0.0
    entries: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """Sum of the sizes."""
        return sum(entry.size for entry in self.entries.values())


@dataclass(frozen=True, slots=True)
class Eviction:
    """`victims` in the order in which to drop them; `fits` is False where even all of them are not enough."""

    fits: bool
    victims: tuple[str, ...]
    reason: str


def touch(state: GreedyDualState, key: str, size: int, cost_s: float) -> GreedyDualState:
    """The entry was used, or is new: it rises by what it would cost to miss it."""
    known = state.entries.get(key)
    frequency = 1 if known is None else known.frequency + 1
    priority = state.clock + frequency * cost_s / max(1, size)
    return replace(state, entries={**state.entries, key: Entry(size, cost_s, frequency, priority)})


def make_room(
    state: GreedyDualState, needed: int, budget: int, kept: Collection[str] = ()
) -> tuple[Eviction, GreedyDualState]:
    """Choose what to drop so that `needed` more fits into `budget`. `kept` (pinned, leased) is never dropped.

    Where it cannot fit nothing is dropped, and the reason says so with numbers. The state returned is the one after
    the victims are gone.
    """
    free = budget - state.used
    if needed <= free:
        return Eviction(True, (), f"{needed} needed, {free} of {budget} free"), state
    if needed > budget:
        return Eviction(False, (), f"{needed} needed, the budget is {budget}: raise it or take a smaller model"), state
    candidates = sorted((entry.priority, key) for key, entry in state.entries.items() if key not in kept)
    victims: list[str] = []
    clock = state.clock
    for priority, key in candidates:
        if needed <= free:
            break
        victims.append(key)
        clock = max(clock, priority)
        free += state.entries[key].size
    if needed > free:
        held = sum(state.entries[key].size for key in kept if key in state.entries)
        return Eviction(
            False, (), f"{needed} needed, {held} of {budget} are pinned or leased: free some of that"
        ), state
    entries = {key: entry for key, entry in state.entries.items() if key not in victims}
    reason = f"{needed} needed: drops {len(victims)}, those that are cheapest to bring back for their size"
    return Eviction(True, tuple(victims), reason), GreedyDualState(clock, entries)


def forget(state: GreedyDualState, key: str) -> GreedyDualState:
    """The entry is gone for another reason."""
    return replace(state, entries={other: entry for other, entry in state.entries.items() if other != key})
