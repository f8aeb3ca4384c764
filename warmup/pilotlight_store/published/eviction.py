"""Which models make room for another one: greedy-dual over a tier, with a refusal that has the numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_protocol import greedy_dual

_GB = 1e9


@dataclass(frozen=True)
class Candidate:
    """One model in a tier. `clock`: the tier's at its last use; `cost_s`: the seconds it takes to have it again.
    `kept`: pinned or in use, so never chosen."""

    digest: str
    size_bytes: int
    frequency: int
    cost_s: float
    clock: float
    kept: bool = False


@dataclass(frozen=True)
class Evict:
    """Evict `digests` in this order; `clock` is the tier's clock afterwards."""

    digests: tuple[str, ...]
    clock: float


@dataclass(frozen=True)
class Refuse:
    """There is no room that may be taken; the reason has the numbers."""

    reason: str


def make_room(
    needed_bytes: int, used_bytes: int, budget_bytes: int, candidates: Sequence[Candidate], clock: float
) -> Evict | Refuse:
    """What to evict so that `needed_bytes` more fit into `budget_bytes`, of which `used_bytes` are taken."""
    if needed_bytes > budget_bytes:
        return Refuse(
            f"the model needs {_gb(needed_bytes)} and the whole budget is {_gb(budget_bytes)}; raise the budget"
        )
    short = used_bytes + needed_bytes - budget_bytes
    victims = greedy_dual.choose(map(_entry, candidates), short, clock)
    if victims.freed < short:
        kept = used_bytes - victims.freed
        return Refuse(
            f"the model needs {_gb(needed_bytes)}, the budget is {_gb(budget_bytes)} with {_gb(used_bytes)} in use, "
            f"and {_gb(kept)} of that is pinned, held or being downloaded; unpin a model, wait for an "
            "engine or a download to end, or raise the budget"
        )
    return Evict(victims.keys, victims.clock)


def _entry(candidate: Candidate) -> greedy_dual.Entry:
    size_gb = max(candidate.size_bytes / _GB, 1 / _GB)
    priority = greedy_dual.priority(candidate.clock, candidate.frequency, candidate.cost_s, size_gb)
    return greedy_dual.Entry(candidate.digest, candidate.size_bytes, priority, candidate.kept)


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / _GB:.3f} GB"
