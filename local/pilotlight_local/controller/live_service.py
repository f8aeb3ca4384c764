"""One component of an InferenceService at run time (a Knative Service): its revisions and the traffic split.

Asks `revisions.decide` which revision gets what, and carries it out. Must not: count requests or start pods itself.
"""

import asyncio
from collections.abc import Callable

from pilotlight_local.controller import revisions
from pilotlight_local.controller.live_revision import LiveRevision, Orders
from pilotlight_specs import Component

NewRevision = Callable[[str, Component], LiveRevision]


class LiveService:
    """All revisions of one component; `component` is what was applied last."""

    def __init__(self, component: Component, new_revision: NewRevision, tell: Callable[[str], None]) -> None:
        self.component = component
        self._tell = tell
        self._new_revision = new_revision
        self._rollout = revisions.RolloutState()
        self.live: dict[str, LiveRevision] = {}
        self.main: LiveRevision
        """The one that gets most of the traffic; there is one as soon as it was reconciled."""
        self.traffic: tuple[tuple[str, int], ...] = ()

    def reconcile(self, is_needed: bool) -> list[LiveRevision]:
        """Bring revisions and traffic in step with the spec and their health; returns those that are no part of it
        any more. `is_needed`: a component before this one has requests that wait."""
        for revision in self.live.values():
            revision.observe()
        health = {name: _health(revision) for name, revision in self.live.items()}
        decision, self._rollout = revisions.decide(
            revisions.rollout_spec(self.component), health, self._rollout, asyncio.get_running_loop().time()
        )
        if decision.latest_created not in self.live:
            self.live[decision.latest_created] = self._new_revision(decision.latest_created, self.component)
        # What is not in the template, such as maxReplicas, changes the revision that exists.
        self.live[decision.latest_created].component = self.component
        if len(self._rollout.revisions) > 1:
            # Of the first revision its pods tell.
            for reason in decision.reasons:
                self._tell(reason)
        has_moved, self.traffic = decision.traffic != self.traffic, decision.traffic
        self.main = self.live[max(self.traffic, key=lambda share: share[1])[0]]
        removed = [self.live.pop(name) for name in decision.removed if name in self.live]
        for name, revision in self.live.items():
            waits = revision.activator.queued > 0 or (is_needed and revision is self.main)
            revision.reconcile(Orders(name not in decision.unrouted, name == decision.candidate, waits))
            if has_moved:
                revision.activator.ask_to_reconnect()
        return removed

    @property
    def has_waiting(self) -> bool:
        """Whether a request waits for a pod of this component and will need the component behind it."""
        return any(revision.activator.waiting_for_model for revision in self.live.values())


def _health(revision: LiveRevision) -> revisions.RevisionHealth:
    failure = revision.failure
    return revisions.RevisionHealth(
        proven=revision.is_proven,
        failure=None if failure is None else revisions.PodFailure(failure.reason, failure.log_lines),
    )
