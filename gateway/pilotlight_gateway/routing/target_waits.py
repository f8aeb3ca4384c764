"""What a request would wait for at an endpoint, from what the gateway's other parts know; and waking a cold one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pilotlight_gateway.directory.endpoint_table import EndpointKey
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.routing.cold_choice import Wait
from pilotlight_gateway.routing.start_times import StartKey, StartTimes
from pilotlight_gateway.ways import WayFacts, WayName, choose_way
from pilotlight_protocol.endpoint_directory import EndpointEntry

COLD_PHASES = frozenset(("activate", "lease", "prefetch", "stop", "fork", "boot", "swap"))
"""Phases of an answer's Server-Timing in which an engine or a pod was waited for, one after the other."""


def start_s(request: GatewayRequest) -> float:
    """What of an answer's time was waiting for an engine or a pod. A phase's name may say whose it was."""
    phases = request.context.server_timing.items()
    return sum(took_ms for phase, took_ms in phases if phase.partition(";")[0] in COLD_PHASES) / 1000


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """`has_engine`: on the short way, now. `queue_s`: how long one that comes now waits for its turn. `wake` may tell
    how long that took."""

    has_engine: Callable[[EndpointKey], bool]
    queue_s: Callable[[EndpointKey], float]
    wake: Callable[[EndpointEntry, WayName, Callable[[float], None]], None]


class TargetWaits:
    def __init__(self, facts: EndpointFacts, now_s: Callable[[], float] = time.monotonic) -> None:
        self._facts = facts
        self._now_s = now_s
        self._starts = StartTimes()

    def wait(self, entry: EndpointEntry, most_s: float | None) -> Wait:
        """`most_s`: what the client says, None for the endpoint's own time."""
        way = _way_of(entry)
        time_s = entry.timeout_s if most_s is None else min(most_s, entry.timeout_s)
        is_cold = entry.pods_ready == 0 if way == "pods" else not self._facts.has_engine(entry.key)
        if not is_cold:
            return Wait(self._facts.queue_s(entry.key), False, time_s)
        key, now_s = _key(entry, way), self._now_s()
        return Wait(self._starts.predicted_s(key, now_s), True, time_s, self._starts.at_best_s(key, now_s))

    def wake(self, entry: EndpointEntry) -> None:
        """Let it start for requests to come. Returns at once."""
        self._facts.wake(entry, _way_of(entry), lambda took_s: self.started(entry, took_s))

    def started(self, entry: EndpointEntry, took_s: float) -> None:
        self._starts.observe(_key(entry, _way_of(entry)), took_s)

    def told(self, entry: EndpointEntry, eta_s: float) -> None:
        """It could not answer, and said when it can."""
        if self.wait(entry, None).is_cold:
            self._starts.told(_key(entry, _way_of(entry)), eta_s, self._now_s())


def _way_of(entry: EndpointEntry) -> WayName:
    """The one that a cold endpoint is asked by."""
    return choose_way(entry, WayFacts(0)).name


def _key(entry: EndpointEntry, way: WayName) -> StartKey:
    return entry.namespace, entry.name, way
