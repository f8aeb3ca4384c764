"""One revision at run time: its activator, its pods, its autoscaler's memory. Carries out what the policies decide.

`observe` takes in what has become of its pods, `reconcile` brings them in step with what is wanted; both may be called
at any time and as often as one likes. Policies: `kpa.scale` (how many pods), `crash_backoff` (when a crashed pod
may start again), `pod_plan.plan` (which to start and stop). Must not: choose between revisions (see `revisions`), tell
anybody to reconcile, or know HTTP.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pilotlight_local import kpa
from pilotlight_local.activator.activator import Activator
from pilotlight_local.controller.pod_plan import SeenPod, plan
from pilotlight_local.errors import RevisionFailed
from pilotlight_local.pods.crash_backoff import PodEnd, crashed
from pilotlight_local.pods.live_pod import LivePod, PodFailure
from pilotlight_protocol.back_off import Failures
from pilotlight_specs import Component
from pilotlight_specs.desired import Role

SETTLED_FAILURE_RETRY_S = 1.0
# Of the time between two decisions: a tick that comes a little early still counts.
TICK_SLACK_S = 0.5

StartPod = Callable[[str, str, Component], LivePod]
"""Starts a pod: its name, its revision's, and what it runs."""


class RevisionEvents(Protocol):
    """Who watches; told after the fact, and has no say."""

    def scaling(self, revision: str, before: int, after: int, reasons: Sequence[str]) -> None: ...

    def pod_ready(self, pod: str, after_s: float) -> None: ...

    def pod_failed(self, pod: str, failure: PodFailure) -> None: ...

    def pod_error(self, pod: str, message: str) -> None: ...


@dataclass(frozen=True)
class Orders:
    """What the rollout and the endpoint want of a revision. `must_start`: it has to prove that it can, before it gets
    traffic. `needed`: a request waits that it, or a component before it, must answer."""

    reachable: bool
    must_start: bool
    needed: bool


@dataclass
class ColdStarts:
    """What boots of this revision took, for progress and metrics."""

    count: int = 0
    last_boot_s: float | None = None
    started_s: float | None = None


class LiveRevision:
    """See the module; `sample` is called every second while it is not dormant."""

    def __init__(
        self, name: str, component: Component, activator: Activator, start_pod: StartPod, events: RevisionEvents
    ) -> None:
        self._now_s = asyncio.get_running_loop().time
        self.name = name
        self.component = component
        self.activator = activator
        self.desired = 0
        self.decision: kpa.Decision | None = None
        self.pods: list[LivePod] = []
        self.failure: PodFailure | None = None
        self.boots = ColdStarts()
        self._start_pod = start_pod
        self._events = events
        self._must_start = False
        self._kpa = kpa.initial_state(component.scaling, 0, self._now_s())
        self._decide_at_s = 0.0
        self._crashes = Failures()
        self._pods_made = 0
        self._is_leaving = False

    @property
    def role(self) -> Role:
        return self.component.role

    @property
    def ready_pods(self) -> list[LivePod]:
        return [pod for pod in self.pods if pod.takes_requests]

    @property
    def why_not_ready(self) -> str:
        """What a pod that is not ready says of it; "" when one is ready, or none says anything."""
        waiting = (pod.why_not_ready for pod in self.pods if pod.counts)
        return "" if self.ready_pods else next(filter(None, waiting), "")

    @property
    def is_proven(self) -> bool:
        """Whether it has as many ready pods as a new revision needs."""
        return len(self.ready_pods) >= self._needed_once

    @property
    def wanted_pods(self) -> int:
        """Pods that should run: the autoscaler's wish, at least one while the revision must prove itself."""
        return max(self.desired, self._needed_once if self._must_start else 0)

    @property
    def _needed_once(self) -> int:
        return max(1, self.component.scaling.min_scale, self.component.scaling.initial_scale)

    @property
    def is_dormant(self) -> bool:
        """Nothing runs, nothing waits, nothing can change before the next request."""
        busy = self.pods or self.activator.meter.concurrency or self.wanted_pods
        return not busy and kpa.is_dormant(self._kpa, self._now_s())

    def sample(self) -> None:
        """Record the last second's concurrency (or requests), and what the pods logged as errors."""
        now_s = self._now_s()
        concurrency, requests = self.activator.meter.report(now_s)
        if self.ready_pods or concurrency > 0 or requests > 0:
            self._record(requests if self.component.scaling.metric == "rps" else concurrency)
        for pod in self.pods:
            for message in pod.new_errors():
                self._events.pod_error(pod.name, message)

    def observe(self) -> None:
        """Take in what has become of the pods since the last time."""
        for pod in [pod for pod in self.pods if pod.phase == "Gone"]:
            self.pods.remove(pod)
            if pod.failure is not None and not self._is_leaving:
                self._pod_failed(pod, pod.failure)
        ready = self.ready_pods
        if ready:
            self.failure = None
            if self.boots.started_s is not None:
                self.boots.count += 1
                self.boots.last_boot_s = self._now_s() - self.boots.started_s
                self.boots.started_s = None
                self._events.pod_ready(ready[0].name, ready[0].ready_after_s or 0.0)

    def _pod_failed(self, pod: LivePod, failure: PodFailure) -> None:
        now_s = self._now_s()
        ended = PodEnd(now_s - pod.created_s, failure.was_ready, blameless=failure.lost_port)
        self._crashes = crashed(self._crashes, ended, now_s)
        self.boots.started_s = None
        self.failure = failure
        self._events.pod_failed(pod.name, failure)

    def reconcile(self, orders: Orders) -> None:
        """Ask the policies and carry out what they say."""
        self._scale(orders)
        back_off_s = self._crashes.wait_s(self._now_s())
        running = [pod for pod in self.pods if pod.counts]
        seen = [SeenPod(pod.name, pod.takes_requests, pod.backend.in_flight, pod.created_s) for pod in running]
        planned = plan(self.wanted_pods, seen, back_off_s == 0.0)
        for pod in running:
            if pod.name in planned.stop:
                pod.stop()
        for _ in range(planned.start):
            self._start_another()
        self._admit(back_off_s)

    def _scale(self, orders: Orders) -> None:
        is_decided = self._must_start and not orders.must_start and self.is_proven
        self._must_start = orders.must_start
        # A request finds nothing running: look at once, as Knative's activator has the autoscaler do for its first
        # one. Or the rollout is decided: the first pods stay for the traffic that comes now.
        wakes = orders.needed and not self.wanted_pods and not any(pod.counts for pod in self.pods)
        if wakes or is_decided:
            self._record(1.0)
        elif self._now_s() < self._decide_at_s:
            return
        observation = kpa.Observation(ready_pods=len(self.ready_pods), reachable=orders.reachable)
        self.decision, self._kpa = kpa.scale(self.component.scaling, observation, self._kpa, self._now_s())
        self._decide_at_s = self._now_s() + self.component.scaling.tick_s - TICK_SLACK_S
        before, self.desired = self.desired, self.decision.desired_scale
        if before != self.desired:
            self._events.scaling(self.name, before, self.desired, self.decision.reasons)

    def _record(self, value: float) -> None:
        self._kpa = kpa.record(self.component.scaling, self._kpa, self._now_s(), value)

    def _start_another(self) -> None:
        self._pods_made += 1
        if self.boots.started_s is None and not self.ready_pods:
            self.boots.started_s = self._now_s()
        self.pods.append(self._start_pod(f"{self.name}-deployment-{self._pods_made}", self.name, self.component))

    def _admit(self, back_off_s: float) -> None:
        """Tell the activator which pods take requests; whoever waits for a start that may not come soon is told now,
        not at the end of its timeout."""
        failure = self.failure
        if failure is not None and back_off_s > 0 and not any(pod.counts for pod in self.pods):
            self.activator.refuse(back_off_s, lambda left_s: self._failed(failure, left_s))
        else:
            self.activator.accept()
        self.activator.set_ready([pod.backend for pod in self.ready_pods], self.why_not_ready)

    def _failed(self, failure: PodFailure, left_s: float) -> RevisionFailed:
        return RevisionFailed(
            self.name,
            f"{failure.reason}; its log says more",
            retry_after_s=max(SETTLED_FAILURE_RETRY_S, left_s),
        )

    def stop(self, grace_s: float | None, idle_grace_s: float | None = None) -> None:
        """End all pods and refuse who waits; returns at once, see `wait_gone`."""
        self._is_leaving = True
        self.activator.refuse(
            float("inf"),
            lambda _: RevisionFailed(self.name, "the revision was removed", retry_after_s=SETTLED_FAILURE_RETRY_S),
        )
        for pod in self.pods:
            pod.stop(grace_s, idle_grace_s)
        self.activator.set_ready([])

    async def wait_gone(self) -> None:
        """Returns when no process is left."""
        await asyncio.gather(*(pod.wait_gone() for pod in self.pods))
