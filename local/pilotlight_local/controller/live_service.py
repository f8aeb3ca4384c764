"""One component of an InferenceService at run time (a Knative Service): its revisions and the traffic split.

Asks `revisions.decide` which revision gets what, and carries it out. Must not: count requests or start pods itself.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random

from pilotlight_local.controller import revisions
from pilotlight_local.controller.live_revision import LiveRevision, RevisionListener
from pilotlight_local.pods.live_pod import PodSurroundings
from pilotlight_specs import Component


class LiveService:
    """All revisions of one component; `apply` brings a new spec, `settle` brings traffic in step with health."""

    def __init__(
        self,
        surroundings: PodSurroundings,
        predictor_address: Callable[[], str] | None,
        listener: RevisionListener,
        rng: Random,
    ) -> None:
        self._surroundings = surroundings
        self._predictor_address = predictor_address
        self._listener = listener
        self._rng = rng
        self._rollout = revisions.RolloutState()
        self._component: Component | None = None
        self._components: dict[str, Component] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._settling = False
        self.live: dict[str, LiveRevision] = {}
        self.traffic: tuple[tuple[str, int], ...] = ()

    @property
    def component(self) -> Component:
        """The component as applied last."""
        assert self._component is not None
        return self._component

    def apply(self, component: Component) -> None:
        """Take a new spec; a changed template becomes a new revision, a changed percentage only moves traffic."""
        self._component = component
        self.settle()

    def settle(self) -> None:
        """Ask who gets which traffic and carry it out. Safe to call from any change; does not nest."""
        if self._settling:
            return
        self._settling = True
        try:
            self._settle()
        finally:
            self._settling = False

    def _settle(self) -> None:
        component = self.component
        observation = {name: _health(revision) for name, revision in self.live.items()}
        decision, self._rollout = revisions.decide(
            revisions.rollout_spec(component), observation, self._rollout, time.monotonic()
        )
        if decision.latest_created not in self.live:
            self.live[decision.latest_created] = self._new_revision(decision.latest_created, component)
        # What is not in the template, such as maxReplicas, changes the revision that exists.
        self.live[decision.latest_created].component = component
        has_moved = decision.traffic != self.traffic
        self.traffic = decision.traffic
        for name in decision.removed:
            self._remove(name)
        for name, revision in self.live.items():
            revision.reachable = name not in decision.unrouted
            if name == decision.candidate:
                revision.prove()
            else:
                revision.stop_proving()
            if has_moved:
                revision.activator.ask_to_reconnect()

    def _new_revision(self, name: str, component: Component) -> LiveRevision:
        revision = LiveRevision(name, component, self._surroundings, self._predictor_address, self._listener, self._rng)
        revision.rescale()
        return revision

    def _remove(self, name: str) -> None:
        revision = self.live.pop(name, None)
        if revision is not None:
            removal = asyncio.create_task(revision.close())
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def choose(self) -> LiveRevision:
        """The revision for one request, drawn by traffic percent."""
        if len(self.traffic) == 1:
            return self.live[self.traffic[0][0]]
        names = [name for name, _ in self.traffic]
        percents = [percent for _, percent in self.traffic]
        return self.live[self._rng.choices(names, weights=percents)[0]]

    def main(self) -> LiveRevision:
        """The revision that gets most of the traffic."""
        return self.live[max(self.traffic, key=lambda share: share[1])[0]]

    async def close(self, grace_s: float | None = None) -> None:
        """End every pod of every revision."""
        await asyncio.gather(*(revision.close(grace_s) for revision in self.live.values()), *self._removals)


def _health(revision: LiveRevision) -> revisions.RevisionHealth:
    failure = revision.failure
    return revisions.RevisionHealth(
        proven=revision.is_proven,
        failure=None if failure is None else revisions.PodFailure(failure.reason, failure.log_lines),
    )
