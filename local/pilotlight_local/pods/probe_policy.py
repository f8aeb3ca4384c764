"""What a probe's outcomes mean, as kubelet and Knative's activator read them. Pure: the outcomes go in.

    probe      until it settles   settles as failed                settles as succeeded
    startup    nothing else runs  the process is restarted         the others begin, it is not asked again
    liveness   alive              the process is restarted         alive
    readiness  takes no requests  takes no requests                takes requests

A probe settles after as many equal outcomes in a row as its threshold says (`kubelet/prober/worker.go`). Knative's
activator does not wait for kubelet: it polls a pod itself until it is ready, without the initial delay and whatever the
period, unless a startup probe or an exec probe leaves the judgement to kubelet (`activator/net/revision_backends.go`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_specs import Container, Probe

POLL_PERIOD_S = 0.05  # Knative's queue-proxy, for `periodSeconds: 0`
DEFAULT_PERIOD_S = 10.0  # Kubernetes'
# A ready pod, while there are requests and another pod that could take them: three failures in a row (Kubernetes'
# threshold) take less than a second.
PEERS_PERIOD_S = 0.3


@dataclass(frozen=True, slots=True)
class ProbeHistory:
    """`settled`: what counts, None before the first threshold is reached. `in_a_row`: outcomes equal to `last`."""

    settled: bool | None = None
    last: bool | None = None
    in_a_row: int = 0


def count(probe: Probe, history: ProbeHistory, succeeded: bool) -> ProbeHistory:
    """The history with one more outcome."""
    in_a_row = history.in_a_row + 1 if succeeded == history.last else 1
    threshold = probe.success_threshold if succeeded else probe.failure_threshold
    return ProbeHistory(succeeded if in_a_row >= threshold else history.settled, succeeded, in_a_row)


def is_polled(container: Container) -> bool:
    """Whether the activator finds out by itself, at once, that a pod is ready."""
    return container.startup is None and container.readiness.kind != "exec"


def first_wait_s(container: Container, probe: Probe) -> float:
    """Between the start of the process and the first look at `probe`."""
    return 0.0 if probe is container.readiness and is_polled(container) else float(probe.initial_delay_s)


def next_wait_s(container: Container, probe: Probe, history: ProbeHistory) -> float:
    """Until the next look at `probe`."""
    if probe is container.readiness and not history.settled and is_polled(container):
        return POLL_PERIOD_S
    return probe.period_s or DEFAULT_PERIOD_S
