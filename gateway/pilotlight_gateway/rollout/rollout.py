"""One canary's rollout: which share it has now, and what makes that the next one, or none. Pure.

step ──(its time and its requests are over)──▶ the next step ──▶ … ──▶ the last one: 100 % is compared with nothing
  └──(the evidence against it passes the bound)──▶ taken back: 0 %, for good
"""

from __future__ import annotations

import math

import msgspec

from pilotlight_gateway.rollout.comparison import Comparison, Evidence
from pilotlight_gateway.rollout.rollout_spec import RolloutSpec

_TESTS = 2


class RolloutState(msgspec.Struct):
    """What survives a restart. `began_s`: of the step, wall time. `requests`: of the canary, in this step.
    `taken_back`: why, "" while it is not."""

    began_s: float
    step: int = 0
    requests: int = 0
    taken_back: str = ""
    evidence: Evidence = msgspec.field(default_factory=Evidence)


class Rollout:
    """`state` changes with what is observed."""

    def __init__(self, spec: RolloutSpec, state: RolloutState) -> None:
        self.spec = spec
        self.state = state
        state.step = min(state.step, len(spec.steps) - 1)
        compared = sum(share < 100 for share in spec.steps)
        self._bound = math.log(_TESTS * max(1, compared) / spec.false_rollback)
        self._comparison = self._compare()

    @property
    def share(self) -> float:
        """In percent, now."""
        return 0.0 if self.state.taken_back else self.spec.steps[self.state.step]

    def observe(self, is_canary: bool, failed: bool, first_event_s: float | None, now_s: float) -> bool:
        """A request has ended. True: the share is another one now."""
        state = self.state
        if state.taken_back or self.share >= 100:
            return False
        self._comparison.observe(is_canary, failed, first_event_s)
        state.requests += is_canary
        state.taken_back = self._verdict()
        if state.taken_back:
            return True
        is_last = state.step + 1 == len(self.spec.steps)
        if is_last or state.requests < self.spec.min_requests or now_s - state.began_s < self.spec.step_s:
            return False
        state.step, state.requests, state.began_s, state.evidence = state.step + 1, 0, now_s, Evidence()
        self._comparison = self._compare()
        return True

    def _compare(self) -> Comparison:
        return Comparison(self.spec.steps[self.state.step], self.spec.tolerated_ttft_ratio, self.state.evidence)

    def _verdict(self) -> str:
        evidence = self.state.evidence
        failures = evidence.failures
        if failures.log_evidence >= self._bound:
            return (
                f"{failures.canary_events} of {failures.canary_requests} requests failed, and "
                f"{failures.baseline_events} of {failures.baseline_requests} of the others at that time"
            )
        if evidence.log_slowness >= self._bound:
            late = evidence.slowness
            return "its streams begin later: " + ", ".join(
                f"{each.canary_events} of {each.canary_requests} after what {each.baseline_events} of "
                f"{each.baseline_requests} of the others took"
                for each in late
            )
        return ""
