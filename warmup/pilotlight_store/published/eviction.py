"""Which models make room for another one. Pure.

Greedy-dual (Young 1994; with frequency and cost as in FaasCache, ASPLOS'21): priority = clock + frequency·cost/size.
The clock is the priority of the last model evicted, so what was not used for long ages against it. Pinned and leased
models are never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One model in a tier. `clock`: the tier's at its last use; `cost_s`: the seconds it takes to have it again."""

    digest: str
    size_bytes: int
    frequency: int
    cost_s: float
    clock: float
    pinned: bool = False
    leased: bool = False

    @property
    def protected(self) -> bool:
        return self.pinned or self.leased


@dataclass(frozen=True)
class Evict:
    """Evict `digests` in this order; `clock` is the tier's clock afterwards."""

    digests: tuple[str, ...]
    freed_bytes: int
    clock: float


@dataclass(frozen=True)
class Refuse:
    """There is no room that may be taken; the reason has the numbers."""

    reason: str


def priority(candidate: Candidate) -> float:
    """Seconds per GB, aged by the clock; higher is kept longer."""
    return candidate.clock + candidate.frequency * candidate.cost_s / max(candidate.size_bytes / 1e9, 1e-9)


def make_room(
    needed_bytes: int, used_bytes: int, budget_bytes: int, candidates: Sequence[Candidate], clock: float
) -> Evict | Refuse:
    """What to evict so that `needed_bytes` more fit into `budget_bytes`, of which `used_bytes` are taken."""
    if needed_bytes > budget_bytes:
        return Refuse(
            f"the model needs {_gb(needed_bytes)} and the whole budget is {_gb(budget_bytes)}; raise the budget"
        )
    short = used_bytes + needed_bytes - budget_bytes
    chosen: list[str] = []
    freed = 0
    for candidate in sorted(candidates, key=lambda candidate: (priority(candidate), candidate.digest)):
        if freed >= short:
            break
        if not candidate.protected:
            chosen.append(candidate.digest)
            freed += candidate.size_bytes
            clock = max(clock, priority(candidate))
    if freed < short:
        kept = used_bytes - freed
        return Refuse(
            f"the model needs {_gb(needed_bytes)}, the budget is {_gb(budget_bytes)} with {_gb(used_bytes)} in use, "
            f"and {_gb(kept)} of that is pinned, leased or being downloaded; unpin a model, wait for a lease or a "
            "download to end, or raise the budget"
        )
    return Evict(tuple(chosen), freed, clock)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.3f} GB"
