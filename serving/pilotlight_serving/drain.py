"""When a server that was asked to end stops taking requests, and when it ends. Pure: time and load are arguments.

    serving ──SIGTERM──▶ ACCEPT ──accept_s──▶ REFUSE ──idle──▶ EXIT
                           │                     │
                           └────idle──▶ EXIT     └──timeout_s──▶ CUT

Readiness is false from the first moment. Under Knative the queue-proxy holds SIGTERM back until it has seen no request
for 30 s, so the server exits at once there; under plain Kubernetes and KServe's raw deployments requests still arrive
until every proxy has dropped the endpoint, and ACCEPT serves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class DrainPhase(Enum):
    ACCEPT = "accept"
    REFUSE = "refuse"
    EXIT = "exit"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class DrainSpec:
    """`timeout_s`: in-flight requests are cut after it. `accept_s`: new ones are served so long. `quiet_s`: idle time
    after which the server ends."""

    timeout_s: float
    accept_s: float
    quiet_s: float


def decide(spec: DrainSpec, in_flight: int, quiet_for_s: float, draining_for_s: float) -> DrainPhase:
    """`quiet_for_s`: seconds since a request last arrived or ended, at most `draining_for_s`."""
    if in_flight == 0 and quiet_for_s >= min(spec.quiet_s, spec.timeout_s):
        return DrainPhase.EXIT
    if draining_for_s >= spec.timeout_s:
        return DrainPhase.CUT
    if draining_for_s >= spec.accept_s:
        return DrainPhase.REFUSE
    return DrainPhase.ACCEPT
