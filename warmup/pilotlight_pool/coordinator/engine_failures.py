"""What follows when an engine of one slot fails: who is told what, what is tried again, and not before when.

Only the slot's driver calls it. What holders are told is the reason alone; the log gets the rest of the report.
"""

from __future__ import annotations

import logging

from pilotlight_pool.agent_port import ExitReport
from pilotlight_pool.coordinator.metrics import PoolMetrics
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.slot_goal import SlotGoal
from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_pool.policy.leases.slot_lifecycle import SlotEvent, SlotState
from pilotlight_pool.policy.placement.boot_backoff import SlotFailures
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import InvalidInput, Unavailable

log = logging.getLogger(__name__)
_GONE = frozenset({SlotState.EMPTY, SlotState.FAILED, SlotState.STOPPING})


class EngineFailures:
    def __init__(self, slot_id: str, pool: Pool, goal: SlotGoal, metrics: PoolMetrics, back_off: BackOff) -> None:
        self._slot_id = slot_id
        self._pool = pool
        self._goal = goal
        self._metrics = metrics
        self._failures = SlotFailures(back_off)

    @property
    def left_s(self) -> float:
        """Until the slot may be used again; 0 for now."""
        return max(0.0, self._failures.not_before_s - self._pool.now_s())

    def worked(self) -> None:
        self._failures.worked()

    def died(self, report: ExitReport) -> None:
        """The process is gone, by itself; where that is known already, nothing follows."""
        if self._pool.ledger.slots[self._slot_id].state not in _GONE:
            self.failed(SlotEvent.DIED, "the engine was lost", report)

    def failed(self, event: SlotEvent, what: str, report: ExitReport) -> None:
        """DIED or SWAP_FAILED: what was being made ready is tried again, here or elsewhere."""
        engine = self._pool.ledger.slots[self._slot_id].engine
        self._failures.failed(engine.model if engine is not None else "", self._pool.now_s())
        if engine is not None:
            self._pool.models.failed(engine.model)
        self._goal.engine_failed()
        self._metrics.engine_failed()
        again = f" ({self._failures.count} failures in a row)" if self._failures.count > 1 else ""
        log.warning("slot %s: %s%s: %s", self._slot_id, what, again, report.for_log())
        self._pool.engine_lost(self._slot_id, event, Unavailable(f"{what}: {report}"), again=True)

    def refused(self, order: EngineOrder, reason: str) -> None:
        """The engine's arguments or the model are wrong: another try would end the same way."""
        log.warning("slot %s: the engine refuses its configuration: %s", self._slot_id, reason)
        self._goal.refused(order)
        error = InvalidInput(reason)
        self._pool.models.refuse(order.facts.kind, error)
        self._pool.engine_lost(self._slot_id, SlotEvent.DIED, error, again=False)
