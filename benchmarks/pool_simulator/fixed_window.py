"""A pod per endpoint, kept for a fixed time after its last request: Knative's window, and fixed keep-alive in general.

Each endpoint is on its own: its first request boots a pod, requests that come meanwhile wait for the rest of the boot,
one pod serves any number at once (continuous batching), and the pod goes when it has been idle for `keep_s`.
"""

from __future__ import annotations

from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Trace


def simulate(trace: Trace, keep_s: float, boot_s: float, name: str) -> Outcome:
    """`keep_s`: idle seconds before the pod goes. `boot_s`: from request to ready engine."""
    outcome = Outcome(name, len(trace.arrivals_s))
    count = len(trace.endpoints)
    never = float("-inf")
    began_s, ready_s, until_s = [0.0] * count, [never] * count, [never] * count
    for at_s, endpoint, duration_s in zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True):
        if at_s > until_s[endpoint]:
            if until_s[endpoint] > never:
                outcome.slot_seconds += until_s[endpoint] - began_s[endpoint]
            began_s[endpoint], ready_s[endpoint] = at_s, at_s + boot_s
            outcome.boots += 1
        wait_s = ready_s[endpoint] - at_s
        if wait_s > 0.0:
            outcome.waits_s.append(wait_s)
            outcome.boot_waits += 1
        until_s[endpoint] = max(until_s[endpoint], max(at_s, ready_s[endpoint]) + duration_s + keep_s)
    for endpoint in range(count):
        if until_s[endpoint] > never:
            outcome.slot_seconds += min(until_s[endpoint], trace.horizon_s) - began_s[endpoint]
    return outcome
