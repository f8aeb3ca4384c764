"""Which way a request goes, and why. Pure.

short   this process renders, tokenizes, leases the engine and streams: nothing to wait for but the engine
pods    the endpoint's own transformer and predictor: sustained load, and whatever is not the warm pool's
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pilotlight_protocol.endpoint_directory import EndpointEntry

WayName = Literal["short", "pods"]
WAY_HEADER = "x-pilotlight-way"

MOST_ON_SHORT_WAY = 16
"""Requests of one endpoint at a time; what one core detokenizes beside everybody else's."""


@dataclass(frozen=True, slots=True)
class WayFacts:
    """`running`: requests of the endpoint on the short way now. `makes_tokens`: an engine is needed."""

    running: int
    makes_tokens: bool = True
    most_running: int = MOST_ON_SHORT_WAY


@dataclass(frozen=True, slots=True)
class ChosenWay:
    """`wakes_pods`: they are wanted beside it, for the requests to come."""

    name: WayName
    reason: str
    wakes_pods: bool = False

    @property
    def header(self) -> str:
        return f"{self.name}; {self.reason}"


def choose_way(entry: EndpointEntry, facts: WayFacts) -> ChosenWay:
    if entry.front == "pods":
        return ChosenWay("pods", "pilotlight.dev/front says so")
    if entry.text is None:
        return ChosenWay("pods", "the transformer is a container of its own")
    if entry.lease is None:
        return ChosenWay("pods", "the endpoint has an engine of its own")
    if entry.front == "shared":
        return ChosenWay("short", "pilotlight.dev/front says so")
    if entry.lease.isolation == "dedicated":
        return ChosenWay("pods", "its isolation is dedicated")
    if not facts.makes_tokens:
        return ChosenWay("short", "no engine is needed")
    if facts.running < facts.most_running:
        return ChosenWay("short", "no pod is ready" if entry.pods_ready == 0 else f"{facts.running} are on it")
    if entry.pods_ready == 0:
        return ChosenWay("short", f"{facts.running} are on it, and no pod is ready", wakes_pods=True)
    return ChosenWay("pods", f"{facts.running} are on the short way")
