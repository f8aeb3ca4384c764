"""Fair queueing told one decision at a time, and the table of who gives way."""

import pytest

from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.placement import fairness
from pilotlight_pool.policy.placement.fairness import FairnessSpec, FairnessState
from pilotlight_pool.policy.placement.preemption import HeldLease, TenantUse, uses, victims
from pilotlight_protocol.leases import Priority

SPEC = FairnessSpec()


def waiting(
    *wishes: tuple[str, Priority], spec: FairnessSpec = SPEC, state: FairnessState | None = None
) -> FairnessState:
    """Leases that came one second apart: ("a1", "normal") is tenant a's."""
    state = state or FairnessState()
    for second, (lease_id, priority) in enumerate(wishes):
        wish = LeaseWish(lease_id, lease_id[0], "m", "f", priority)
        refusal, state = fairness.enqueue(spec, state, wish, max(state.as_of_s, float(second)))
        assert refusal is None
    return state


def test_tenants_alternate_however_many_one_of_them_queues() -> None:
    state = waiting(*[(f"a{n}", "normal") for n in range(5)], ("b1", "normal"), ("b2", "normal"))
    assert fairness.order(SPEC, state, 10.0) == ("a0", "b1", "a1", "b2", "a2", "a3", "a4")


def test_priority_orders_within_a_tenant_and_buys_nothing_across() -> None:
    state = waiting(("a1", "normal"), ("a2", "interactive"), ("a3", "interactive"), ("b1", "normal"))
    assert fairness.order(SPEC, state, 10.0) == ("a2", "b1", "a3", "a1")


def test_batch_comes_last_until_its_patience_is_over() -> None:
    state = waiting(("b1", "batch"), ("a1", "normal"), ("a2", "normal"), ("a3", "normal"))
    assert fairness.order(SPEC, state, 10.0) == ("a1", "a2", "a3", "b1")
    assert fairness.order(SPEC, state, 301.0).index("b1") == 1


def test_double_weight_is_double_the_leases() -> None:
    spec = FairnessSpec(weights={"a": 2.0})
    state = waiting(*[(f"{tenant}{n}", "normal") for tenant in "ab" for n in range(6)], spec=spec)
    assert sorted(fairness.order(spec, state, 20.0)[:6]) == ["a0", "a1", "a2", "a3", "b0", "b1"]


def test_long_leases_cost_more_than_short_ones() -> None:
    state = waiting(("a1", "normal"), ("b1", "normal"))
    for lease_id, until_s in (("a1", 100.0), ("b1", 5.0)):
        state = fairness.ended(SPEC, fairness.started(SPEC, state, lease_id, 0.0), lease_id, until_s)
    state = waiting(("a2", "normal"), *[(f"b{n}", "normal") for n in range(2, 6)], state=state)
    assert fairness.order(SPEC, state, 200.0)[:4] == ("b2", "b3", "b4", "b5")


def test_absence_saves_up_no_credit() -> None:
    state = FairnessState()
    for n in range(50):
        state = fairness.started(SPEC, waiting((f"a{n}", "normal"), state=state), f"a{n}", float(n))
    state = waiting(*[(f"c{n}", "normal") for n in range(8)], *[(f"a9{n}", "normal") for n in range(8)], state=state)
    first_eight = fairness.order(SPEC, state, 60.0)[:8]
    assert sum(lease_id.startswith("a") for lease_id in first_eight) >= 3


def test_ending_twice_or_unknown_changes_nothing_and_tenants_are_forgotten_in_time() -> None:
    state = fairness.started(SPEC, waiting(("a1", "normal"), ("c1", "normal")), "a1", 1.0)
    once = fairness.ended(SPEC, state, "a1", 11.0)
    assert fairness.ended(SPEC, once, "a1", 99.0) == once
    once = fairness.withdraw(SPEC, once, "c1", 11.0)
    kept = fairness.forget_idle_tenants(SPEC, once, 20.0)
    assert "a" in kept.used_s
    later = waiting(("b1", "normal"), ("b2", "normal"), state=kept)
    for lease_id in ("b1", "b2"):
        later = fairness.started(SPEC, later, lease_id, 5000.0)
    assert set(fairness.forget_idle_tenants(SPEC, later, 5000.0).finish_tags) == {"b"}


def test_only_what_is_used_while_others_wait_counts() -> None:
    alone = fairness.started(SPEC, waiting(("a1", "normal")), "a1", 0.0)
    assert fairness.mean_slots(SPEC, alone, 100.0) == {}
    _, wanted = fairness.enqueue(SPEC, alone, LeaseWish("b1", "b", "m", "f"), 100.0)
    assert fairness.mean_slots(SPEC, wanted, 110.0)["a"] == pytest.approx(0.83, abs=0.01)
    assert fairness.mean_slots(SPEC, wanted, 110.0).get("b", 0.0) == 0.0


def test_who_shares_counts_as_who_would_wait_if_it_did_not() -> None:
    state = fairness.started(SPEC, waiting(("c1", "normal"), ("a1", "normal")), "c1", 1.0)
    state = fairness.started(SPEC, fairness.ended(SPEC, state, "c1", 3.0), "a1", 3.0)
    assert fairness.mean_slots(SPEC, state, 103.0).get("a", 0.0) == 0.0, "nobody waits"
    shared = fairness.shares(SPEC, waiting(("a2", "normal"), state=state), "a2", 3.0)
    assert fairness.mean_slots(SPEC, shared, 103.0)["a"] > 0.9
    follows = fairness.adopt(SPEC, fairness.ended(SPEC, shared, "a1", 4.0), LeaseWish("a2", "a", "m", "f"), 4.0)
    assert (set(follows.running), follows.sharing) == ({"a2"}, frozenset())


def test_a_lease_that_lost_its_slot_teaches_nothing_and_pays_for_what_it_had() -> None:
    state = fairness.started(SPEC, waiting(("a1", "normal")), "a1", 0.0)
    lost = fairness.slot_lost(SPEC, state, "a1", 3.0)
    assert lost.usual_cost_s == {}
    assert lost.finish_tags == {"a": pytest.approx(3.0)}
    ended = fairness.ended(SPEC, state, "a1", 3.0)
    assert fairness.usual_hold_s(ended, "a") == pytest.approx(8.6)
    assert fairness.usual_hold_s(ended, "b") == pytest.approx(8.6), "all that is known"
    assert fairness.usual_hold_s(FairnessState(), "a") is None


def held(
    lease_id: str, priority: Priority, idle: bool = False, since_s: float = 0.0, placing: bool = False
) -> HeldLease:
    return HeldLease(lease_id, f"slot-{lease_id}", lease_id[0], priority, placing, idle, since_s)


# Of two slots each: a uses little, b four and all the time, c one now and little lately.
SMALL, LARGE, FAIR = TenantUse(2.0, 1, 0.5), TenantUse(2.0, 4, 3.5), TenantUse(2.0, 2, 1.9)


@pytest.mark.parametrize(
    ("wish_priority", "lease", "order"),
    [
        ("interactive", held("b1", "interactive", idle=True), 0),
        ("batch", held("b1", "interactive", idle=True), None),
        ("batch", held("b1", "batch", idle=True), 0),
        ("normal", held("b1", "batch"), 1),
        ("batch", held("b1", "batch"), None),
        ("normal", held("c1", "batch"), 1),
        ("normal", held("b1", "normal"), 2),
        ("normal", held("b1", "normal", placing=True), 2),
        ("normal", held("b1", "interactive"), 2),
        ("normal", held("c1", "interactive"), None),
        ("normal", held("c1", "normal"), None),
        ("interactive", held("a1", "normal"), None),
    ],
)
def test_idle_then_batch_then_lent_and_never_interactive_within_the_share(
    wish_priority: Priority, lease: HeldLease, order: int | None
) -> None:
    wish = LeaseWish("a9", "a", "m", "f", wish_priority)
    found = victims(wish, [lease], {"a": SMALL, "b": LARGE, "c": FAIR}, now_s=10.0)
    assert [victim.order for victim in found.values()] == ([] if order is None else [order])


def test_only_the_lowest_order_is_offered_and_each_says_what_it_would_lose() -> None:
    pool = [held("b1", "normal"), held("b2", "batch", since_s=2.0), held("b3", "batch", since_s=9.0, placing=True)]
    wish = LeaseWish("a9", "a", "m", "f")
    found = victims(wish, pool, {"a": SMALL, "b": LARGE}, now_s=10.0)
    assert {slot_id: victim.loss_s for slot_id, victim in found.items()} == {"slot-b2": 8.0, "slot-b3": 0.0}
    lent = victims(wish, pool[:1], {"a": SMALL, "b": LARGE}, now_s=10.0)
    assert "its share is 2.0" in lent["slot-b1"].detail
    idle = victims(wish, [*pool, held("b4", "normal", idle=True)], {"a": SMALL, "b": LARGE}, now_s=10.0)
    assert list(idle) == ["slot-b4"]


def test_a_flood_takes_no_batch_work_of_a_tenant_within_its_share() -> None:
    batch = [held("c1", "batch")]
    assert victims(LeaseWish("b9", "b", "m", "f"), batch, {"b": LARGE, "c": FAIR}, now_s=10.0) == {}


def test_one_slot_of_a_small_share_may_be_held_interactively() -> None:
    """Eleven tenants and one slot: whoever holds it holds more than its share."""
    wish = LeaseWish("a9", "a", "m", "f")
    within, flood = TenantUse(1 / 11, 1, 0.05), TenantUse(1 / 11, 1, 0.5)
    quiet = TenantUse(1 / 11, 0, 0.01)
    assert victims(wish, [held("b1", "interactive")], {"a": quiet, "b": within}, now_s=10.0) == {}
    assert victims(wish, [held("b1", "interactive")], {"a": quiet, "b": flood}, now_s=10.0) != {}


def test_shares_follow_the_weights() -> None:
    shares = uses({"a": 1.0, "b": 3.0}, [held("a1", "normal")], {"a": 0.4}, 8)
    assert shares == {"a": TenantUse(2.0, 1, 0.4), "b": TenantUse(6.0, 0, 0.0)}


def test_a_small_user_may_burst_at_a_floods_expense_and_not_the_other_way_round() -> None:
    burst, flood = TenantUse(2.0, held_slots=3, mean_slots=0.8), TenantUse(2.0, held_slots=1, mean_slots=1.9)
    wish = LeaseWish("b9", "b", "m", "f")
    assert victims(wish, [held("a1", "normal")], {"a": burst, "b": flood}, now_s=10.0) == {}


def test_of_idle_leases_the_one_that_had_work_a_moment_ago_is_the_greatest_loss() -> None:
    pool = [held("a1", "normal", idle=True, since_s=9.9), held("a2", "normal", idle=True, since_s=2.0)]
    found = victims(LeaseWish("b1", "b", "m", "f"), pool, {"a": FAIR, "b": FAIR}, now_s=10.0)
    assert found["slot-a2"].loss_s < found["slot-a1"].loss_s
