"""What outcomes of probes mean: thresholds as kubelet counts them, pauses as it and Knative's activator make them."""

from dataclasses import replace

import pytest

from pilotlight_local.pods.probe_policy import ProbeHistory, count, first_wait_s, next_wait_s
from pilotlight_specs import Container, Probe


def container(readiness: Probe | None = None, liveness: Probe | None = None, startup: Probe | None = None) -> Container:
    probe = readiness or Probe(kind="http")
    return Container("kserve-container", "", (), (), (), "", 8080, "http1", probe, liveness, startup)


@pytest.mark.parametrize(
    ("success", "failure", "outcomes", "settled"),
    [
        # After kubelet's prober/worker_test.go, TestSuccessThreshold and TestFailureThreshold.
        (1, 3, "+", [True]),
        (3, 3, "+++", [None, None, True]),
        (3, 3, "++-+++", [None, None, None, None, None, True]),
        (1, 3, "---", [None, None, False]),
        (1, 3, "+--+---", [True, True, True, True, True, True, False]),
        (2, 2, "++--++", [None, True, True, False, False, True]),
        (1, 1, "+-+-", [True, False, True, False]),
    ],
)
def test_thresholds_count_equal_outcomes_in_a_row(
    success: int, failure: int, outcomes: str, settled: list[bool | None]
) -> None:
    probe, history, seen = Probe(success_threshold=success, failure_threshold=failure), ProbeHistory(), []
    for outcome in outcomes:
        history = count(probe, history, outcome == "+")
        seen.append(history.settled)
    assert seen == settled


SLOW = Probe(kind="http", period_s=30, initial_delay_s=7)
READY, NOT_READY = ProbeHistory(settled=True), ProbeHistory()


@pytest.mark.parametrize(
    ("pod", "history", "first_s", "next_s"),
    [
        # The activator polls until ready, whatever the period and the delay; kubelet's period holds afterwards.
        (container(), NOT_READY, 0, 0.05),
        (container(), READY, 0, 10),
        (container(SLOW), NOT_READY, 0, 0.05),
        (container(SLOW), ProbeHistory(settled=False), 0, 0.05),
        (container(SLOW), READY, 0, 30),
        # A startup probe, or a command, leaves it to kubelet.
        (container(SLOW, startup=Probe()), NOT_READY, 7, 30),
        (container(startup=Probe()), NOT_READY, 0, 10),
        (container(replace(SLOW, kind="exec")), NOT_READY, 7, 30),
    ],
)
def test_when_readiness_is_looked_at(pod: Container, history: ProbeHistory, first_s: float, next_s: float) -> None:
    assert (first_wait_s(pod, pod.readiness), next_wait_s(pod, pod.readiness, history)) == (first_s, next_s)


def test_liveness_and_startup_keep_their_own_time() -> None:
    probe = Probe(kind="http", period_s=4, initial_delay_s=9)
    for pod in (container(liveness=probe), container(startup=probe)):
        assert (first_wait_s(pod, probe), next_wait_s(pod, probe, NOT_READY)) == (9, 4)
