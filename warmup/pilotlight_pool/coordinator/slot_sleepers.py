"""The engines that sleep in one slot: which processes they are, and what the ledger calls them."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_pool.agent_port import SleeperReport
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.coordinator.reported_state import sleeper_engine
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.placement import sleepers
from pilotlight_pool.policy.placement.sleepers import SleepBudget, Sleeper


@dataclass(frozen=True, slots=True)
class Dormant:
    """A process that sleeps, and the order it would answer when woken."""

    incarnation: int
    engine: Engine
    order: EngineOrder


class SlotSleepers:
    """Kept in step with the ledger's `Slot.sleeping`; only the slot's driver changes it."""

    def __init__(self, facts: SlotFacts, pool: Pool) -> None:
        self._slot_id = facts.slot_id
        self._budget = SleepBudget(facts.sleepers, facts.sleep_bytes)
        self._pool = pool
        self._asleep: dict[int, Dormant] = {}

    def took_over(self, reports: tuple[SleeperReport, ...]) -> None:
        """What slept in the slot before this coordinator knew of it; the ledger has been told."""
        self._asleep = {
            report.incarnation: Dormant(report.incarnation, sleeper_engine(report), report.engine) for report in reports
        }

    def room_for(self, dormant: Dormant, next_awake: Dormant | None) -> tuple[int, ...] | None:
        """The processes to end first; None: it is to be stopped instead.

        `next_awake` sleeps until the other does, so host memory holds the weights of both for that moment.
        """
        others = [self._sleeper(each) for each in self._asleep.values() if each is not next_awake]
        return sleepers.make_room(self._budget, others, self._sleeper(dormant))

    def fell_asleep(self, dormant: Dormant) -> None:
        """The ledger hears it from the slot's SLEPT."""
        self._asleep[dormant.incarnation] = dormant

    def to_wake(self, wish: LeaseWish, *, swappable: bool) -> Dormant | None:
        by_engine = {dormant.engine: dormant for dormant in self._asleep.values()}
        engine = sleepers.to_wake(by_engine, wish, swappable=swappable)
        return by_engine[engine] if engine is not None else None

    def woke(self, dormant: Dormant) -> None:
        """The ledger hears it from the slot's WAKE."""
        del self._asleep[dormant.incarnation]

    def discard(self, incarnation: int) -> bool:
        """This process sleeps no more, it is gone; False where it did not sleep here."""
        dormant = self._asleep.pop(incarnation, None)
        if dormant is not None:
            self._pool.discard_sleeper(self._slot_id, dormant.engine)
        return dormant is not None

    def _sleeper(self, dormant: Dormant) -> Sleeper:
        weights_bytes, used_s = dormant.order.facts.weights_bytes, self._pool.models.last_used_s(dormant.engine.model)
        return Sleeper(dormant.incarnation, dormant.engine, weights_bytes, used_s)
