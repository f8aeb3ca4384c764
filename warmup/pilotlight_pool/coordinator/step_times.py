"""What the steps of one slot are expected to take, and what is learned when they have taken it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.engine_orders import EngineOrder, EngineReady, ModelFacts
from pilotlight_pool.policy.placement.prediction import Outcome, Path

log = logging.getLogger(__name__)
_GRANTED_ALONE: tuple[Path, ...] = ("loaded", "adapter")


@dataclass(frozen=True, slots=True)
class ExpectedStep:
    """`began_s` on the pool's clock."""

    path: Path
    facts: ModelFacts
    predicted_s: float
    began_s: float


class StepTimes:
    """`ends_s`: when the step under way should be over, on the pool's clock; 0 between steps."""

    def __init__(self, slot_id: str, pool: Pool, metrics: PoolMetrics) -> None:
        self.ends_s = 0.0
        self._slot_id = slot_id
        self._pool = pool
        self._metrics = metrics

    def begin(self, takes_s: float) -> None:
        self.ends_s = self._pool.now_s() + takes_s

    def end(self) -> None:
        self.ends_s = 0.0

    def expect(self, path: Path, order: EngineOrder, before_s: float = 0.0) -> ExpectedStep:
        """An engine is made ready from now on, `before_s` after which its own part begins."""
        step = ExpectedStep(path, order.facts, self._pool.models.predicted_s(path, order.facts), self._pool.now_s())
        self.begin(before_s + step.predicted_s)
        return step

    def granted(self, record: LeaseRecord, facts: ModelFacts, took_s: float) -> None:
        """The lease serves now; learn from that where there was nothing else to do."""
        record.phases_s["grant"] = took_s
        for path in _GRANTED_ALONE:
            if record.path == path:
                predicted_s = self._pool.models.predicted_s(path, facts)
                self._pool.models.learn(Outcome(path, facts.tier, facts.fingerprint, 0, took_s, 0.0, predicted_s))
        log.info(
            "lease %s is active on %s after %.3f s (%s)", record.wish.lease_id, self._slot_id,
            self._pool.now_s() - record.asked_s,
            ", ".join(f"{name} {seconds:.3f}" for name, seconds in record.phases_s.items()),
        )  # fmt: skip

    def took(self, step: ExpectedStep, ready: EngineReady, record: LeaseRecord | None) -> None:
        """It is ready: learn from how long that took, and tell it `record`, the lease that has reserved the slot."""
        facts, took_s = step.facts, self._pool.now_s() - step.began_s
        process_s = max(0.0, took_s - ready.weights_s - ready.zygote_s)
        self._pool.models.learn(
            Outcome(
                step.path, facts.tier, facts.fingerprint, facts.weights_bytes, process_s, ready.weights_s,
                step.predicted_s,
            )
        )  # fmt: skip
        self._metrics.made_ready(step.path, ready, step.predicted_s, took_s)
        if record is not None and record.order.facts.key == facts.key:
            record.phases_s[step.path] = took_s
            record.phases_s |= {f"{step.path}.{name}": seconds for name, seconds in ready.phases_s.items()}
        log.info(
            "slot %s: %s of %s took %.3f s, predicted were %.3f s", self._slot_id, step.path, facts.key[:12], took_s,
            step.predicted_s,
        )  # fmt: skip
