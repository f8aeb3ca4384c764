"""One revision at run time: its activator, its pods, its autoscaler's memory. Carries out what the policies decide.

Policies it asks: `kpa.scale` (how many pods), `crash_backoff.decide` (when a crashed pod may start again). Must not:
choose between revisions (see `rollout`), or know HTTP.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from pilotlight_local import kpa
from pilotlight_local.activator.activator import Activator, Backend
from pilotlight_local.errors import ActivationTimeout, RevisionFailed
from pilotlight_local.ingress.routes import Component as Role
from pilotlight_local.pods import crash_backoff
from pilotlight_local.pods.live_pod import LivePod, PodFailure, PodSurroundings
from pilotlight_specs import Component

SHORT_LOG_LINES = 10
SETTLED_FAILURE_RETRY_S = 1.0


@dataclass(frozen=True)
class RevisionListener:
    """Whom a revision tells; all callbacks are quick and may not raise."""

    changed: Callable[["LiveRevision"], None]
    demanded: Callable[["LiveRevision"], None]
    pod_ready: Callable[["LiveRevision", LivePod], None]
    pod_failed: Callable[["LiveRevision", LivePod, PodFailure], None]
    pod_error: Callable[[LivePod, str], None]


@dataclass
class ColdStarts:
    """What boots of this revision took, for progress and metrics."""

    count: int = 0
    last_boot_s: float | None = None
    started_s: float | None = field(default=None)


class LiveRevision:
    """See the module; the owner calls `sample` every second and `rescale` every autoscaler tick."""

    def __init__(
        self,
        name: str,
        component: Component,
        surroundings: PodSurroundings,
        predictor_address: Callable[[], str] | None,
        listener: RevisionListener,
        rng: Random,
    ) -> None:
        now_s = time.monotonic()
        self.name = name
        self.component = component
        self.reachable = True
        self.must_start = False
        self.desired = 0
        self.decision: kpa.Decision | None = None
        self.pods: list[LivePod] = []
        self.failure: PodFailure | None = None
        self.boots = ColdStarts()
        self.activator = Activator(name, component.container_concurrency, rng, self._on_demand, self._on_concurrency)
        self._surroundings = surroundings
        self._predictor_address = predictor_address
        self._listener = listener
        self._meter = kpa.request_meter(now_s)
        self._kpa = kpa.initial_state(component.scaling, 0, now_s)
        self._backoff = crash_backoff.BackoffState()
        self._start_after_s = 0.0
        self._pods_made = 0
        self._closing = False

    @property
    def role(self) -> Role:
        return self.component.role

    @property
    def timeout_s(self) -> float:
        return float(self.component.timeout_s)

    @property
    def ready_pods(self) -> list[LivePod]:
        return [pod for pod in self.pods if pod.takes_requests and pod.counts]

    @property
    def why_not_ready(self) -> str:
        """What a pod that is not ready says of it; "" when one is ready, or none says anything."""
        waiting = (pod.why_not_ready for pod in self.pods if pod.counts)
        return "" if self.ready_pods else next(filter(None, waiting), "")

    @property
    def is_proven(self) -> bool:
        """Whether it has as many ready pods as a new revision needs."""
        scaling = self.component.scaling
        return len(self.ready_pods) >= max(1, scaling.min_scale, scaling.initial_scale)

    @property
    def wanted_pods(self) -> int:
        """Pods that should run: the autoscaler's wish, at least one while the revision must prove itself."""
        needed = max(1, self.component.scaling.min_scale, self.component.scaling.initial_scale)
        return max(self.desired, needed if self.must_start else 0)

    @property
    def is_dormant(self) -> bool:
        """Nothing runs, nothing waits, nothing can change before the next request."""
        busy = self.pods or self.activator.queued or self.activator.running or self.wanted_pods
        return not busy and kpa.is_dormant(self._kpa, time.monotonic())

    async def acquire(self, deadline_s: float) -> Backend:
        """A pod for one request; see `Activator.acquire`. Raises RevisionFailed while pods cannot start."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        try:
            return await self.activator.acquire(deadline_s)
        except ActivationTimeout as error:
            if not self.why_not_ready:
                raise
            raise ActivationTimeout(f"{error.message}; its pod says: {self.why_not_ready}") from error

    def _refusal(self) -> RevisionFailed | None:
        left_s = self._start_after_s - time.monotonic()
        if self.failure is None or left_s <= 0 or any(pod.counts for pod in self.pods):
            return None
        return self._failed(self.failure)

    def _failed(self, failure: PodFailure) -> RevisionFailed:
        retry_after_s = max(SETTLED_FAILURE_RETRY_S, self._start_after_s - time.monotonic())
        return RevisionFailed(
            self.name, failure.reason, failure.log_lines[-SHORT_LOG_LINES:], retry_after_s=retry_after_s
        )

    def suspect(self, backend: Backend) -> None:
        """A connection to this pod was refused."""
        for pod in self.pods:
            if pod.backend is backend:
                pod.suspect()

    def poke(self) -> None:
        """Demand has come: look at once when nothing runs (Knative's activator does so for its first request)."""
        if any(pod.counts for pod in self.pods) or self._closing:
            return
        now_s = time.monotonic()
        self._kpa = kpa.record(self.component.scaling, self._kpa, now_s, 1.0)
        self.rescale()

    def prove(self) -> None:
        """It must show that it can start before it gets traffic."""
        if not self.must_start:
            self.must_start = True
            self.reconcile()

    def stop_proving(self) -> None:
        """The rollout is decided: when it could start, its first pods stay for the traffic that comes now."""
        if not self.must_start:
            return
        self.must_start = False
        if self.is_proven:
            self._kpa = kpa.record(self.component.scaling, self._kpa, time.monotonic(), 1.0)
            self.rescale()
        else:
            self.reconcile()

    def sample(self) -> None:
        """Record the last second's concurrency (or requests), and what the pods logged as errors."""
        now_s = time.monotonic()
        concurrency, requests, self._meter = self._meter.report(now_s)
        if self.ready_pods or concurrency > 0 or requests > 0:
            value = requests if self.component.scaling.metric == "rps" else concurrency
            self._kpa = kpa.record(self.component.scaling, self._kpa, now_s, value)
        for pod in self.pods:
            for message in pod.new_errors():
                self._listener.pod_error(pod, message)

    def rescale(self) -> None:
        """Ask the autoscaler and carry out what it says."""
        observation = kpa.Observation(ready_pods=len(self.ready_pods), reachable=self.reachable)
        self.decision, self._kpa = kpa.scale(self.component.scaling, observation, self._kpa, time.monotonic())
        self.desired = self.decision.desired_scale
        self.reconcile()

    def reconcile(self) -> None:
        """Start or stop pods until as many run as wanted; a crash may make starting wait."""
        if self._closing:
            return
        running = [pod for pod in self.pods if pod.counts]
        missing = self.wanted_pods - len(running)
        if missing > 0 and time.monotonic() >= self._start_after_s:
            for _ in range(missing):
                self._start_pod()
        elif missing < 0:
            # Those that are not ready go first, then the least busy, the youngest among equals.
            order = sorted(running, key=lambda pod: (pod.takes_requests, pod.backend.in_flight, -pod.created_s))
            for pod in order[:-missing]:
                pod.stop()
            self._publish()

    def _start_pod(self) -> None:
        self._pods_made += 1
        name = f"{self.name}-deployment-{self._pods_made}"
        address = self._predictor_address() if self._predictor_address is not None else None
        if self.boots.started_s is None and not self.ready_pods:
            self.boots.started_s = time.monotonic()
        self.pods.append(LivePod(name, self.name, self.component, address, self._surroundings, self._pod_changed))
        self._listener.changed(self)

    def _pod_changed(self, pod: LivePod) -> None:
        if pod.phase == "Ready":
            self._pod_is_ready(pod)
        if pod.phase == "Gone" and pod in self.pods:
            self.pods.remove(pod)
            if pod.failure is not None and not self._closing:
                self._pod_failed(pod, pod.failure)
        self._publish()
        self._listener.changed(self)

    def _pod_is_ready(self, pod: LivePod) -> None:
        self.failure = None
        if self.boots.started_s is not None:
            self.boots.count += 1
            self.boots.last_boot_s = time.monotonic() - self.boots.started_s
            self.boots.started_s = None
            self._listener.pod_ready(self, pod)

    def _pod_failed(self, pod: LivePod, failure: PodFailure) -> None:
        now_s = time.monotonic()
        ended = crash_backoff.PodEnd(now_s - pod.created_s, failure.was_ready, blameless=failure.lost_port)
        decision, self._backoff = crash_backoff.decide(crash_backoff.BackoffSpec(), ended, self._backoff, now_s)
        self._start_after_s = now_s + decision.wait_s
        self.boots.started_s = None
        self.failure = failure
        self._listener.pod_failed(self, pod, failure)
        # Whoever waits for a start that may not come soon is told now, not at the end of its timeout.
        if self._start_after_s > now_s and not any(other.counts for other in self.pods):
            self.activator.fail_waiting(lambda: self._failed(failure))

    def _publish(self) -> None:
        self.activator.set_ready([pod.backend for pod in self.ready_pods])

    def _on_demand(self) -> None:
        self._listener.demanded(self)

    def _on_concurrency(self, change: int) -> None:
        now_s = time.monotonic()
        self._meter = self._meter.arrived(now_s) if change > 0 else self._meter.finished(now_s)

    async def close(self, grace_s: float | None = None) -> None:
        """End all pods and refuse who waits; returns when no process is left."""
        self._closing = True
        self.activator.fail_waiting(
            lambda: RevisionFailed(self.name, "the revision was removed", retry_after_s=SETTLED_FAILURE_RETRY_S)
        )
        pods = list(self.pods)
        for pod in pods:
            pod.stop(grace_s)
        self._publish()
        await asyncio.gather(*(pod.wait_gone() for pod in pods))
