"""What is counted, and by what. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class UsageKey(NamedTuple):
    """`day`: of UTC, since the epoch. `tenant`: who pays. `endpoint`: `namespace/name`. `model`: the one or the adapter
    that was asked for, as the endpoint's components call it."""

    day: int
    tenant: str
    endpoint: str
    model: str


@dataclass(slots=True)
class Amounts:
    """`cached_tokens` are of the prompt's. `cost`: in picos."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    slot_ms: int = 0
    cost: int = 0

    def add(self, other: Amounts) -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.slot_ms += other.slot_ms
        self.cost += other.cost


Counted = dict[UsageKey, Amounts]
Total = tuple[tuple[str | int, ...], Amounts]
"""What makes the line, in the order that was asked for, and what was taken."""


def merge(into: Counted, counted: Counted) -> None:
    for key, amounts in counted.items():
        known = into.get(key)
        if known is None:
            into[key] = amounts
        else:
            known.add(amounts)
