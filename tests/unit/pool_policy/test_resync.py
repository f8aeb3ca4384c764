"""What becomes of leases when a coordinator or an agent was away: nothing is lost unheard, nothing is held twice."""

from __future__ import annotations

from dataclasses import replace

import ledger_check
import pytest

from pilotlight_pool.policy.leases import ledger as book
from pilotlight_pool.policy.leases.lease_lifecycle import LeaseEvent
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine, Lease, Ledger, Slot
from pilotlight_pool.policy.leases.resync import Resync, drop, resync, unplace
from pilotlight_pool.policy.leases.slot_lifecycle import SlotEvent, SlotState
from pilotlight_protocol.leases import LeaseState

ENGINE = Engine("m", "f", "acme")


def wish(lease_id: str) -> LeaseWish:
    return LeaseWish(lease_id, "acme", "m", "f")


Reported = tuple[Slot, list[Lease]]


def serving(slot_id: str, *lease_ids: str, since_s: float = 5.0) -> Reported:
    leases = [Lease(wish(lease_id), LeaseState.ACTIVE, since_s, since_s, 60.0, slot_id) for lease_id in lease_ids]
    return Slot(slot_id, SlotState.LEASED, since_s, ENGINE, lease_ids[0], sharers=lease_ids[1:]), leases


def idle(slot_id: str) -> Reported:
    return Slot(slot_id, SlotState.IDLE, 9.0, ENGINE), []


def known(*pairs: Reported, others: tuple[Lease, ...] = ()) -> Ledger:
    leases = [lease for _, served in pairs for lease in served]
    return Ledger(
        {lease.wish.lease_id: lease for lease in (*leases, *others)}, {slot.slot_id: slot for slot, _ in pairs}
    )


def sound(after: Resync) -> Resync:
    assert ledger_check.check(after.ledger) == ()
    return after


def test_a_new_coordinator_takes_every_lease_that_an_agent_serves() -> None:
    after = sound(resync(known(), [serving("a", "l1"), idle("b")]))
    assert (after.adopted, after.lost, after.stray) == (("l1",), (), ())
    assert after.ledger.leases["l1"].slot_id == "a"


def test_an_agent_that_returns_with_the_same_lease_changes_nothing() -> None:
    before = known(serving("a", "l1"))
    slot, [lease] = serving("a", "l1", since_s=3.0)
    after = sound(resync(before, [(slot, [replace(lease, state=LeaseState.IDLE, expires_at_s=1.0)])]))
    assert (after.adopted, after.lost, after.stray) == ((), (), ())
    kept = after.ledger.leases["l1"]
    assert (kept.state, kept.expires_at_s) == (LeaseState.IDLE, 60.0)


@pytest.mark.parametrize("reported", [idle("a"), (Slot("a"), []), serving("a", "l2")])
def test_a_lease_that_its_agent_serves_no_longer_is_lost(reported: Reported) -> None:
    after = sound(resync(known(serving("a", "l1")), [reported]))
    assert after.lost == (("l1", LeaseState.ACTIVE),)
    assert after.ledger.leases["l1"].state is LeaseState.QUEUED


def test_a_lease_that_ended_meanwhile_is_stray() -> None:
    before = book.lease_event(known(serving("a", "l1")), "l1", LeaseEvent.EXPIRE, 20.0)
    assert before.slots["a"].state is SlotState.DRAINING
    after = sound(resync(before, [serving("a", "l1")]))
    assert (after.stray, after.lost) == (("a",), ())
    assert after.ledger.slots["a"].state is SlotState.DRAINING
    assert after.ledger.leases["l1"].state is LeaseState.EXPIRED


def test_a_lease_that_waits_again_is_not_taken_from_the_queue() -> None:
    waiting = Lease(wish("l1"), LeaseState.QUEUED, 8.0, 1.0, 60.0)
    after = sound(resync(known(others=(waiting,)), [serving("a", "l1")]))
    assert after.stray == ("a",)
    assert after.ledger.leases["l1"] == waiting


@pytest.mark.parametrize(("first_s", "second_s", "owner", "stray"), [(5.0, 8.0, "b", "a"), (8.0, 5.0, "a", "b")])
@pytest.mark.parametrize("together", [True, False])
def test_of_two_slots_that_claim_a_lease_the_last_keeps_it(
    first_s: float, second_s: float, owner: str, stray: str, together: bool
) -> None:
    first, second = serving("a", "l1", since_s=first_s), serving("b", "l1", since_s=second_s)
    if together:
        after = sound(resync(known(), [first, second]))
    else:
        after = sound(resync(sound(resync(known(), [first])).ledger, [second]))
    assert after.stray == (stray,)
    assert after.ledger.leases["l1"].slot_id == owner
    assert after.ledger.slots[stray].state is SlotState.DRAINING


def test_two_leases_on_one_slot_are_both_adopted_and_one_that_is_not_its_slots_is_stray_alone() -> None:
    after = sound(resync(known(), [serving("a", "l1", "l2")]))
    assert (after.adopted, after.ledger.slots["a"].lease_ids) == (("l1", "l2"), ("l1", "l2"))
    after = sound(resync(known(), [serving("a", "l1", "l2")], given_back=("l1",)))
    assert (after.adopted, after.stray, after.ledger.slots["a"].lease_ids) == (("l2",), ("a",), ("l2",))
    assert after.ledger.slots["a"].state is SlotState.LEASED


def test_an_agent_that_returns_without_one_of_two_has_lost_that_one() -> None:
    after = sound(resync(known(serving("a", "l1", "l2")), [serving("a", "l2")]))
    assert after.lost == (("l1", LeaseState.ACTIVE),)
    assert after.ledger.slots["a"].lease_ids == ("l2",)
    after = sound(drop(known(serving("a", "l1", "l2")), ["a"], 3.0))
    assert {lease_id for lease_id, _ in after.lost} == {"l1", "l2"}


def test_what_its_holder_gave_back_before_it_was_known_is_not_adopted() -> None:
    after = sound(resync(known(), [serving("a", "l1")], given_back=("l1",)))
    assert (after.stray, after.adopted) == (("a",), ())
    assert after.ledger.leases == {}


def placing() -> Ledger:
    ledger = book.admit(Ledger({}, {"a": Slot("a"), **known(serving("b", "l2")).slots}), wish("l1"), 60.0, 0.0)
    ledger = replace(ledger, leases={**ledger.leases, **known(serving("b", "l2")).leases})
    ledger = book.reserve(ledger, "l1", "a", 0.0)
    return book.slot_event(ledger, "a", SlotEvent.BOOT, 0.0, Engine("m", "f"))


def test_an_agent_that_goes_away_has_nothing_placed_on_it_and_serves_on() -> None:
    after = sound(unplace(placing(), ["a", "b"], 3.0))
    assert after.lost == (("l1", LeaseState.PLACING),)
    assert after.ledger.leases["l1"].state is LeaseState.QUEUED
    assert after.ledger.leases["l2"].state is LeaseState.ACTIVE
    assert after.ledger.slots["b"].lease_id == "l2"


def test_an_agent_that_stays_away_takes_its_leases_along() -> None:
    after = sound(drop(placing(), ["b"], 3.0))
    assert after.lost == (("l2", LeaseState.ACTIVE),)
    assert set(after.ledger.slots) == {"a"}
    assert after.ledger.leases["l1"].slot_id == "a"
