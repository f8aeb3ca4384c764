"""The ledger under every order of events that hypothesis can think of, and a few stories told step by step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ledger_check
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilotlight_pool.policy.leases import ledger as book
from pilotlight_pool.policy.leases.lease_lifecycle import ENDED, LeaseEvent
from pilotlight_pool.policy.leases.lease_lifecycle import TRANSITIONS as LEASE_TABLE
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.resync import resync
from pilotlight_pool.policy.leases.slot_lifecycle import TRANSITIONS as SLOT_TABLE
from pilotlight_pool.policy.leases.slot_lifecycle import LifeCycleViolation, SlotEvent, SlotState
from pilotlight_protocol.leases import SERVING, LeaseState

SLOTS = ("cpu:0", "cuda:0")


def wish(lease_id: str, model: str = "m", tenant: str = "acme", **terms: Any) -> LeaseWish:
    return replace(LeaseWish(lease_id, tenant, model, fingerprint="f"), **terms)


def pool_with_lease(lease_id: str = "l1", **terms: Any) -> book.Ledger:
    pool = book.admit(book.empty_ledger(SLOTS, 0.0), wish(lease_id, **terms), expires_at_s=60.0, now_s=0.0)
    return book.reserve(pool, lease_id, "cpu:0", 0.0)


def booted(pool: book.Ledger, now_s: float = 5.0, model: str = "m") -> book.Ledger:
    pool = book.slot_event(pool, "cpu:0", SlotEvent.BOOT, 0.0, book.Engine(model, "f"))
    return book.slot_event(pool, "cpu:0", SlotEvent.BOOTED, now_s)


def test_a_lease_is_granted_only_once_the_engine_has_its_weights() -> None:
    pool = pool_with_lease()
    with pytest.raises(LifeCycleViolation, match="reserve"):
        book.grant(pool, "cuda:0", 1.0)
    booting = book.slot_event(pool, "cpu:0", SlotEvent.BOOT, 0.0, book.Engine("m", "f"))
    with pytest.raises(LifeCycleViolation, match="booting"):
        book.grant(booting, "cpu:0", 1.0)
    with pytest.raises(LifeCycleViolation, match="loaded with other"):
        book.grant(booted(pool, model="other"), "cpu:0", 5.0)
    with pytest.raises(LifeCycleViolation, match="booted as f"):
        book.grant(booted(pool), "cpu:0", 5.0, "what this node calls it")
    granted = book.grant(booted(pool), "cpu:0", 5.0)
    assert granted.leases["l1"].state is LeaseState.ACTIVE
    assert ledger_check.check(granted) == ()


def test_an_engine_that_dies_under_work_sends_its_lease_back_to_the_queue_and_keeps_its_place_in_time() -> None:
    pool = book.grant(booted(pool_with_lease()), "cpu:0", 5.0)
    pool = book.slot_event(pool, "cpu:0", SlotEvent.DIED, 9.0)
    lease = pool.leases["l1"]
    assert (lease.state, lease.slot_id, lease.tries, lease.queued_at_s) == (LeaseState.QUEUED, None, 1, 0.0)
    assert pool.slots["cpu:0"].state is SlotState.FAILED


def test_a_slot_never_drains_under_a_lease_that_stays() -> None:
    pool = book.grant(booted(pool_with_lease()), "cpu:0", 5.0)
    with pytest.raises(LifeCycleViolation, match="lease_event"):
        book.slot_event(pool, "cpu:0", SlotEvent.DRAIN, 6.0)


def test_preemption_drains_the_slot_and_the_next_lease_may_be_reserved_meanwhile() -> None:
    pool = book.grant(booted(pool_with_lease()), "cpu:0", 5.0)
    pool = book.lease_event(pool, "l1", LeaseEvent.WORK_ENDED, 6.0)
    pool = book.lease_event(pool, "l1", LeaseEvent.PREEMPT, 7.0)
    assert pool.slots["cpu:0"].state is SlotState.DRAINING
    pool = book.reserve(book.admit(pool, wish("l2", "n"), 60.0, 7.0), "l2", "cpu:0", 7.0)
    pool = book.slot_event(pool, "cpu:0", SlotEvent.DRAINED, 7.1)
    pool = book.slot_event(pool, "cpu:0", SlotEvent.SWAP, 7.1, book.Engine("n", "f"))
    pool = book.grant(book.slot_event(pool, "cpu:0", SlotEvent.SWAPPED, 7.3), "cpu:0", 7.3)
    assert pool.leases["l2"].state is LeaseState.ACTIVE
    assert ledger_check.check(pool) == ()


def shared(*sharers: str) -> book.Ledger:
    """l1 holds cpu:0, the others are let in beside it."""
    pool = book.grant(booted(pool_with_lease()), "cpu:0", 5.0)
    for lease_id in sharers:
        pool = book.share(book.admit(pool, wish(lease_id), 60.0, 5.0), lease_id, "cpu:0", 5.0)
        pool = book.admit_sharer(pool, lease_id, 5.0)
    return pool


@pytest.mark.parametrize("event", [LeaseEvent.RELEASE, LeaseEvent.EXPIRE, LeaseEvent.PREEMPT])
def test_whoever_shares_follows_the_holder_and_the_last_to_leave_drains(event: LeaseEvent) -> None:
    pool = book.lease_event(shared("l2", "l3"), "l1", event, 6.0)
    assert (pool.slots["cpu:0"].state, pool.slots["cpu:0"].lease_ids) == (SlotState.LEASED, ("l2", "l3"))
    pool = book.lease_event(pool, "l3", event, 6.0)
    assert pool.slots["cpu:0"].lease_ids == ("l2",)
    pool = book.lease_event(pool, "l2", event, 6.0)
    assert (pool.slots["cpu:0"].state, pool.slots["cpu:0"].lease_ids) == (SlotState.DRAINING, ())
    assert ledger_check.check(pool) == ()


def test_one_that_is_served_follows_before_one_that_is_not_yet_let_in() -> None:
    pool = book.share(book.admit(shared(), wish("l2"), 60.0, 5.0), "l2", "cpu:0", 5.0)
    pool = book.share(book.admit(pool, wish("l3"), 60.0, 5.0), "l3", "cpu:0", 5.0)
    pool = book.admit_sharer(pool, "l3", 5.0)
    both = book.lease_event(pool, "l1", LeaseEvent.RELEASE, 6.0)
    assert both.slots["cpu:0"].lease_ids == ("l3", "l2")
    alone = book.lease_event(both, "l3", LeaseEvent.RELEASE, 6.0)
    assert (alone.slots["cpu:0"].state, alone.slots["cpu:0"].lease_ids) == (SlotState.DRAINING, ("l2",))
    assert ledger_check.check(both) == ledger_check.check(alone) == ()


def test_a_lost_engine_is_lost_for_all_who_share_it() -> None:
    pool = book.lease_event(shared("l2"), "l2", LeaseEvent.WORK_ENDED, 6.0)
    pool = book.slot_event(pool, "cpu:0", SlotEvent.DIED, 7.0)
    assert (pool.leases["l1"].state, pool.leases["l2"].state) == (LeaseState.QUEUED, LeaseState.PREEMPTED)
    assert pool.slots["cpu:0"].lease_ids == ()
    assert ledger_check.check(pool) == ()


@pytest.mark.parametrize("other", [wish("l2", tenant="globex"), wish("l2", "n"), wish("l2", isolation="reset")])
def test_nobody_shares_on_other_terms(other: LeaseWish) -> None:
    pool = book.admit(shared(), other, 60.0, 5.0)
    with pytest.raises(LifeCycleViolation, match="its endpoint's own"):
        book.share(pool, "l2", "cpu:0", 5.0)


def test_a_process_that_served_one_tenant_is_not_swapped_for_another_that_asks_for_reset() -> None:
    pool = book.grant(booted(pool_with_lease()), "cpu:0", 5.0)
    pool = book.lease_event(pool, "l1", LeaseEvent.RELEASE, 6.0)
    pool = book.slot_event(pool, "cpu:0", SlotEvent.DRAINED, 6.0)
    pool = book.admit(pool, wish("l2", "n", "globex", isolation="reset"), 60.0, 6.0)
    pool = book.reserve(pool, "l2", "cpu:0", 6.0)
    swapped = book.slot_event(pool, "cpu:0", SlotEvent.SWAP, 6.0, book.Engine("n", "f"))
    swapped = book.slot_event(swapped, "cpu:0", SlotEvent.SWAPPED, 6.2)
    with pytest.raises(LifeCycleViolation, match="used by acme"):
        book.grant(swapped, "cpu:0", 6.2)
    fresh = book.slot_event(pool, "cpu:0", SlotEvent.STOP, 6.0)
    fresh = book.slot_event(fresh, "cpu:0", SlotEvent.STOPPED, 6.5)
    fresh = book.slot_event(fresh, "cpu:0", SlotEvent.BOOT, 6.5, book.Engine("n", "f"))
    fresh = book.grant(book.slot_event(fresh, "cpu:0", SlotEvent.BOOTED, 9.0), "cpu:0", 9.0)
    assert fresh.slots["cpu:0"].engine == book.Engine("n", "f", "globex", "reset", owner="globex", booted_s=9.0)


def test_the_same_lease_id_twice_is_one_lease_with_a_later_expiry() -> None:
    pool = book.admit(pool_with_lease(), wish("l1"), expires_at_s=90.0, now_s=30.0)
    assert len(pool.leases) == 1
    assert (pool.leases["l1"].state, pool.leases["l1"].expires_at_s) == (LeaseState.PLACING, 90.0)


def test_leases_without_heartbeats_expire_in_order_and_are_swept_later() -> None:
    pool = book.admit(pool_with_lease(), wish("l2"), expires_at_s=20.0, now_s=0.0)
    pool, ended = book.expire(pool, 61.0)
    assert ended == ("l2", "l1")
    assert pool.slots["cpu:0"].lease_id is None
    assert book.sweep(pool, 100.0, keep_s=60.0).leases.keys() == {"l1", "l2"}
    assert not book.sweep(pool, 122.0, keep_s=60.0).leases


@pytest.mark.parametrize("table", [SLOT_TABLE, LEASE_TABLE], ids=["slot", "lease"])
def test_every_state_can_be_reached_and_left_unless_it_is_an_end(table: dict[object, dict[object, object]]) -> None:
    reached, frontier = set(), [next(iter(table))]
    while frontier:
        state = frontier.pop()
        if state not in reached:
            reached.add(state)
            frontier.extend(table[state].values())
    assert reached == set(table)
    assert {state for state in table if not table[state]} <= set(ENDED)


class LedgerMachine(RuleBasedStateMachine):
    """Any event, to any lease or slot, at any time: allowed steps keep every promise, others change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.pool = book.empty_ledger(SLOTS, 0.0)
        self.admitted: set[str] = set()

    def attempt(self, step: Callable[..., book.Ledger], *args: object) -> None:
        self.now_s += 1.0
        before = {key: lease.state for key, lease in self.pool.leases.items()}
        try:
            self.pool = step(self.pool, *args)
        except LifeCycleViolation:
            return
        for lease_id, state in before.items():
            now = self.pool.leases[lease_id].state
            assert now is state or state not in ENDED, f"{lease_id} came back from {state}"

    @rule(
        number=st.integers(0, 5),
        model=st.sampled_from("mn"),
        tenant=st.sampled_from(["acme", "globex"]),
        isolation=st.sampled_from(["shared", "reset", "dedicated"]),
    )
    def admit(self, number: int, model: str, tenant: str, isolation: str) -> None:
        self.admitted.add(f"l{number}")
        terms = wish(f"l{number}", model, tenant, isolation=isolation)
        self.attempt(book.admit, terms, self.now_s + 20, self.now_s)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), slot_id=st.sampled_from(SLOTS))
    def reserve(self, data: st.DataObject, slot_id: str) -> None:
        self.attempt(book.reserve, data.draw(st.sampled_from(sorted(self.admitted))), slot_id, self.now_s)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), slot_id=st.sampled_from(SLOTS))
    def share(self, data: st.DataObject, slot_id: str) -> None:
        self.attempt(book.share, data.draw(st.sampled_from(sorted(self.admitted))), slot_id, self.now_s)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def admit_sharer(self, data: st.DataObject) -> None:
        self.attempt(book.admit_sharer, data.draw(st.sampled_from(sorted(self.admitted))), self.now_s)

    @rule(slot_id=st.sampled_from(SLOTS))
    def grant(self, slot_id: str) -> None:
        self.attempt(book.grant, slot_id, self.now_s)

    @rule(slot_id=st.sampled_from(SLOTS), event=st.sampled_from(SlotEvent), model=st.sampled_from("mn"))
    def slot_event(self, slot_id: str, event: SlotEvent, model: str) -> None:
        self.attempt(book.slot_event, slot_id, event, self.now_s, book.Engine(model, "f"))

    @rule(slot_id=st.sampled_from(SLOTS))
    def make_ready(self, slot_id: str) -> None:
        """The usual way up, so that random walks get deep: boot, booted, grant with the right model."""
        held = self.pool.slots[slot_id].lease_id
        model = self.pool.leases[held].wish.model if held is not None else "m"
        self.attempt(book.slot_event, slot_id, SlotEvent.BOOT, self.now_s, book.Engine(model, "f"))
        self.attempt(book.slot_event, slot_id, SlotEvent.BOOTED, self.now_s)
        self.attempt(book.grant, slot_id, self.now_s)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), event=st.sampled_from(LeaseEvent))
    def lease_event(self, data: st.DataObject, event: LeaseEvent) -> None:
        self.attempt(book.lease_event, data.draw(st.sampled_from(sorted(self.admitted))), event, self.now_s)

    @rule()
    def expire(self) -> None:
        self.attempt(lambda pool, now_s: book.expire(pool, now_s)[0], self.now_s)

    @rule()
    def restart(self) -> None:
        """A coordinator restart loses no lease that an agent serves, and drains nothing that is in order."""
        held = [lease for lease in self.pool.leases.values() if lease.slot_id is not None]
        serving = {lease.wish.lease_id: lease for lease in held if lease.state in SERVING}
        reported = []
        for slot in self.pool.slots.values():
            served = [lease_id for lease_id in slot.lease_ids if lease_id in serving]
            told = replace(slot, lease_id=next(iter(served), None), sharers=tuple(served[1:]))
            reported.append((told, [serving[lease_id] for lease_id in served]))
        after = resync(book.Ledger({}, {}), reported)
        assert not after.stray
        assert not after.lost
        assert after.ledger.slots == {slot.slot_id: slot for slot, _ in reported}
        assert after.ledger.leases == serving
        assert ledger_check.check(after.ledger) == ()

    @invariant()
    def every_promise_holds(self) -> None:
        assert ledger_check.check(self.pool) == ()

    @invariant()
    def no_lease_is_lost(self) -> None:
        assert set(self.pool.leases) == self.admitted


LedgerMachine.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
