"""Which target is asked first when some are cold: the predicted starts of those against the queues of warm ones. Pure.

    the first that answers within the route's patience and the request's time     is asked
    none does                                                                     of those in time the soonest
    none is, and some would be if they started as quickly as they lately have     of those the soonest
    none would be                                                                 nobody is: 503 with the soonest's

Behind the first are those that answer in time, then the others, both in the route's order. What is not known is hoped
for: such a target keeps its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec


class Wait(msgspec.Struct, frozen=True):
    """Before a target begins to answer. `seconds`: None where nobody knows. `most_s`: of the request's time there.
    `at_best_s`: if it starts as quickly as it lately has; None for no sooner than `seconds`."""

    seconds: float | None
    is_cold: bool
    most_s: float
    at_best_s: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Places of the targets as they are asked. `note`: why the first one is not, "" where it is."""

    places: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class TooLate:
    """`place`: the target that answers soonest, in `eta_s`."""

    place: int
    eta_s: float


def is_in_time(wait: Wait) -> bool:
    return wait.seconds is None or wait.seconds <= wait.most_s


def may_be_in_time(wait: Wait) -> bool:
    return is_in_time(wait) or (wait.at_best_s is not None and wait.at_best_s <= wait.most_s)


def is_soon(wait: Wait, patience_s: float | None) -> bool:
    if wait.seconds is None:
        return True
    return is_in_time(wait) and (patience_s is None or wait.seconds <= patience_s)


def order(waits: Sequence[Wait], patience_s: float | None) -> Order | TooLate:
    """`waits`: of the targets in the route's order, one at least."""
    places = range(len(waits))
    first = next((place for place in places if is_soon(waits[place], patience_s)), None)
    if first is None:
        # Each of them is known, or it would be soon.
        in_time = [place for place in places if is_in_time(waits[place])]
        hopeful = in_time or [place for place in places if may_be_in_time(waits[place])]
        first = min(hopeful or places, key=lambda place: waits[place].seconds or 0.0)
        if not hopeful:
            return TooLate(first, waits[first].seconds or 0.0)
    behind = (place for place in in_time_first(waits) if place != first)
    return Order((first, *behind), _why_not_the_first(waits[0]) if first else "")


def in_time_first(waits: Sequence[Wait]) -> list[int]:
    """The places of all, those that are predicted to be too late behind the others, and last those that will be."""
    return sorted(range(len(waits)), key=lambda place: (not is_in_time(waits[place]), not may_be_in_time(waits[place])))


def _why_not_the_first(skipped: Wait) -> str:
    return f"{'cold' if skipped.is_cold else 'queue'} {skipped.seconds or 0.0:.1f} s"
