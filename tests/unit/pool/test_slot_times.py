"""What slots are charged by: whoever holds one, from its reservation until its last lease leaves, in equal parts."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_pool.coordinator import slot_times
from pilotlight_pool.coordinator.slot_times import SlotTimes
from pilotlight_pool.policy.leases import ledger
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish


class Pool:
    """What `SlotTimes` reads of one: a ledger, a clock, and the news of changes."""

    def __init__(self, *slots: str) -> None:
        self.seconds = 0.0
        self.ledger = ledger.empty_ledger(slots, 0.0)
        self.on_change: list[Any] = []
        self.times = SlotTimes(cast(Any, self))

    def now_s(self) -> float:
        return self.seconds

    def lease(self, name: str, slot: str, tenant: str = "acme", model_name: str = "chat") -> None:
        wish = LeaseWish(name, tenant, "m", "f", model_name=model_name, adapter="a")
        self.ledger = ledger.admit(self.ledger, wish, 1e9, self.seconds)
        place = ledger.reserve if self.ledger.slots[slot].lease_id is None else ledger.share
        self.ledger = place(self.ledger, name, slot, self.seconds)
        self._tell(slot)

    def release(self, name: str) -> None:
        slot = self.ledger.leases[name].slot_id
        assert slot is not None
        self.ledger = ledger.lease_event(self.ledger, name, LeaseEvent.RELEASE, self.seconds)
        self._tell(slot)

    def _tell(self, slot: str) -> None:
        for told in self.on_change:
            told((slot,))

    def told(self) -> dict[tuple[str, str], float]:
        return {(each.tenant, each.model_name): each.slot_s for each in self.times.told()}


def test_a_slot_is_its_holders_and_shared_in_equal_parts() -> None:
    pool = Pool("s")
    pool.seconds = 5.0
    pool.lease("one", "s")
    pool.seconds = 9.0
    pool.lease("two", "s", "other")
    pool.seconds = 11.0
    assert pool.told() == {("acme", "chat"): 5.0, ("other", "chat"): 1.0}
    pool.release("one")
    pool.seconds = 12.0
    pool.release("two")
    pool.seconds = 99.0
    assert pool.told() == {("acme", "chat"): 5.0, ("other", "chat"): 2.0}


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("xy"), st.sampled_from(["acme", "other"]), st.booleans()), max_size=30
)


@given(STEPS)
def test_every_second_of_a_held_slot_is_charged_once(steps: Any) -> None:
    pool, held_s = Pool("x", "y"), 0.0
    for number, (seconds, slot, tenant, leases) in enumerate(steps):
        held_s += seconds * sum(bool(each.lease_ids) for each in pool.ledger.slots.values())
        pool.seconds += seconds
        if leases:
            pool.lease(f"l{number}", slot, tenant)
        elif pool.ledger.slots[slot].lease_ids:
            pool.release(pool.ledger.slots[slot].lease_ids[-1])
        if number % 3 == 0:
            pool.told()
    assert sum(pool.told().values()) == pytest.approx(held_s)


def test_it_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_times, "MOST_HOLDERS", 3)
    pool = Pool("s")
    for number in range(9):
        pool.lease(f"l{number}", "s", model_name=f"m{number}")
        pool.seconds += 1.0
        pool.release(f"l{number}")
    assert list(pool.told()) == [("acme", f"m{number}") for number in (6, 7, 8)]
