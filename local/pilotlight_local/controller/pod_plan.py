"""Which pods of a revision to start and to stop, from what is seen of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod that runs, or is about to, and was not told to stop."""

    name: str
    takes_requests: bool
    in_flight: int
    created_s: float


@dataclass(frozen=True, slots=True)
class PodPlan:
    """How many pods to start, and the names of those to stop."""

    start: int = 0
    stop: tuple[str, ...] = ()


def plan(wanted: int, pods: Sequence[SeenPod], may_start: bool) -> PodPlan:
    """As many pods as `wanted`; `may_start` is False while a crash makes starting wait.

    Those that take no requests go first, then the least busy, the youngest among equals.
    """
    missing = wanted - len(pods)
    if missing >= 0:
        return PodPlan(start=missing if may_start else 0)
    order = sorted(pods, key=lambda pod: (pod.takes_requests, pod.in_flight, -pod.created_s))
    return PodPlan(stop=tuple(pod.name for pod in order[:-missing]))
