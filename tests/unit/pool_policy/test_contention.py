"""Fairness in virtual time: the coordinator itself, a tenant that floods, and one that does not."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_pool.policy.placement.eviction_rules import EvictionSpec
from pilotlight_pool.policy.placement.fairness import FairnessSpec
from pilotlight_pool.policy.placement.placement import PlacementSpec
from pilotlight_pool.policy.placement.prediction import PredictionSpec
from pilotlight_protocol.leases import Priority
from pool_simulator.contention import Arrival, Outcome, Pool, simulate

SWAP_S, FORK_S = 0.1, 12.0
PREDICTION = PredictionSpec(process_s={"loaded": 0.005, "wake": 0.5, "swap": SWAP_S, "fork": FORK_S, "boot": 29.0})
POOL = Pool(
    slot_count=4,
    fairness=FairnessSpec(max_waiting_per_tenant=20),
    eviction=EvictionSpec(PlacementSpec(PREDICTION)),
)
SPAN_S = 200.0
# What nobody can take back in no time: a swap that has begun, and the drain of the lease that gives way.
RESIDUAL_S = SWAP_S + POOL.drain_s


def poisson(
    tenant: str, every_s: float, work_s: float, seed: int, priority: Priority = "normal", fingerprint: str = "f"
) -> list[Arrival]:
    """Leases over twenty fine-tunes of one architecture."""
    chance, at_s = random.Random(seed), 0.0
    found: list[Arrival] = []
    while True:
        at_s += chance.expovariate(1 / every_s)
        if at_s > SPAN_S:
            return found
        name, model = f"{tenant}-{len(found)}", f"{tenant}-model-{chance.randrange(20)}"
        work = chance.expovariate(1 / work_s)
        found.append(Arrival(at_s, name, tenant, model, work, priority, fingerprint))


def flood(slot_count: int, priority: Priority, tenant: str = "flood", fingerprint: str = "f") -> list[Arrival]:
    """Two and a half times what the pool can do, in leases of five seconds."""
    return poisson(tenant, 5.0 / (2.5 * slot_count), 5.0, 2, priority, fingerprint)


def quiet(slot_count: int, pool_share: float, work_s: float = 2.0) -> list[Arrival]:
    return poisson("quiet", work_s / (pool_share * slot_count), work_s, 1, "interactive")


def p95(outcome: Outcome, leases: list[Arrival], settled_s: float = 30.0) -> float:
    """Of leases that came after `settled_s`: before that nobody's mean use says anything."""
    waits = sorted(outcome.waits_s[lease.lease_id] for lease in leases if settled_s <= lease.at_s < SPAN_S - 30.0)
    return waits[int(0.95 * len(waits))]


@pytest.mark.parametrize(
    ("slot_count", "pool_share", "flood_priority"),
    [(1, 0.4, "normal"), (2, 0.1, "interactive"), (4, 0.1, "batch"), (4, 0.4, "normal"), (4, 0.4, "interactive")],
)
def test_a_flood_does_not_double_the_p95_wait_of_a_tenant_within_its_share(
    slot_count: int, pool_share: float, flood_priority: Priority
) -> None:
    pool = replace(POOL, slot_count=slot_count)
    mine = quiet(slot_count, pool_share)
    alone = simulate(pool, mine, SPAN_S)
    together = simulate(pool, [*mine, *flood(slot_count, flood_priority)], SPAN_S)
    assert p95(together, mine) <= 2 * max(p95(alone, mine), SWAP_S)
    assert len([lease for lease in together.waits_s if lease.startswith("quiet")]) >= len(alone.waits_s) - 1
    lent = [lease for lease in together.preemptions if lease.startswith("quiet")]
    assert len(lent) <= len(mine) / 50, "what it holds beyond its share for a moment, nothing within it"
    assert sum(together.busy_slot_s.values()) > 0.88 * pool.slot_count * SPAN_S, (
        "swaps and drains are all that keeps slots from work"
    )


@pytest.mark.parametrize("pool_share", [0.1, 0.2, 0.4])
def test_a_flood_that_shares_an_engine_keeps_it_from_nobody_and_does_more(pool_share: float) -> None:
    """Several leases of one endpoint stand to another tenant as if they waited for each other."""
    pool, mine = replace(POOL, slot_count=1), quiet(1, pool_share)
    shared = [replace(lease, model="m", endpoint="m") for lease in flood(1, "normal")]
    together, apart = simulate(pool, [*mine, *shared], SPAN_S), simulate(pool, [*mine, *flood(1, "normal")], SPAN_S)
    assert p95(together, mine) <= 3 * max(p95(simulate(pool, mine, SPAN_S), mine), RESIDUAL_S)
    assert len([lease for lease in together.preemptions if lease.startswith("quiet")]) <= len(mine) / 10, (
        "where it was beyond its share"
    )
    assert len(together.finished_at_s) > 1.5 * len(apart.finished_at_s)


def test_two_floods_that_share_take_turns_at_a_slot_and_neither_waits_for_the_others_end() -> None:
    floods = {name: [replace(lease, model=name, endpoint=name) for lease in flood(1, "normal", name)] for name in "ab"}
    both = simulate(replace(POOL, slot_count=1), [*floods["a"], *floods["b"]], SPAN_S)
    for leases in floods.values():
        assert p95(both, leases) <= 10.0, "each is let in once more of the slot is the other's than its own"


def test_eleven_tenants_four_slots_and_ten_of_them_flood() -> None:
    mine = quiet(4, 0.04)
    floods = [lease for n in range(10) for lease in poisson(f"flood{n}", 9.0, 5.0, 10 + n)]
    alone, together = simulate(POOL, mine, SPAN_S), simulate(POOL, [*mine, *floods], SPAN_S)
    assert p95(together, mine) <= 2 * max(p95(alone, mine), SWAP_S)


def test_a_tenant_that_worked_alone_owes_nothing_when_a_flood_begins() -> None:
    mine = quiet(4, 0.3)
    late = [replace(lease, at_s=lease.at_s + 100.0) for lease in flood(4, "normal")]
    alone, together = simulate(POOL, mine, SPAN_S), simulate(POOL, [*mine, *late], SPAN_S)
    assert p95(together, mine, settled_s=100.0) <= 2 * max(p95(alone, mine, settled_s=100.0), SWAP_S)


def test_two_floods_that_cannot_swap_do_not_boot_against_each_other() -> None:
    """Two architectures on one slot: each engine works for as long as two boots before the other may have the slot."""
    pool = replace(POOL, slot_count=1)
    both = simulate(pool, [*flood(1, "normal", "a", "f"), *flood(1, "normal", "b", "g")], SPAN_S)
    assert sum(both.busy_slot_s.values()) > 0.5 * SPAN_S
    assert min(sum(lease.startswith(tenant) for lease in both.finished_at_s) for tenant in "ab") >= 8


def test_a_flood_of_another_architecture_leaves_a_tenants_engine_where_it_is() -> None:
    mine = quiet(4, 0.3)
    together = simulate(POOL, [*mine, *flood(4, "normal", fingerprint="g")], SPAN_S)
    # On its own two slots, never four: it queues behind itself, and its engines are booted once.
    assert p95(together, mine) <= FORK_S
    assert sum(together.busy_slot_s.values()) > 0.65 * POOL.slot_count * SPAN_S


def test_with_no_contention_nobody_waits_longer_than_a_swap() -> None:
    alone = simulate(POOL, poisson("quiet", 20.0, 4.0, seed=1), SPAN_S)
    mine = poisson("quiet", 30.0, 2.0, seed=1)
    together = simulate(POOL, [*mine, *poisson("other", 30.0, 2.0, seed=3)], SPAN_S)
    assert max(alone.waits_s.values()) <= RESIDUAL_S + 1e-6
    assert p95(together, mine) <= SWAP_S + 1e-6


def test_two_floods_share_by_weight() -> None:
    pool = replace(POOL, fairness=replace(POOL.fairness, weights={"gold": 3.0}))
    leases = [*poisson("gold", 0.5, 5.0, seed=1), *poisson("iron", 0.5, 5.0, seed=2)]
    both = simulate(pool, leases, SPAN_S)
    assert both.busy_slot_s["gold"] / both.busy_slot_s["iron"] == pytest.approx(3.0, rel=0.15)
    assert sum(both.busy_slot_s.values()) > 0.9 * POOL.slot_count * SPAN_S
    assert sum(both.preemptions.values()) < 0.2 * len(both.finished_at_s), "they do not preempt each other in turn"


def test_a_full_queue_refuses_with_numbers_and_only_the_flood() -> None:
    mine = poisson("quiet", 20.0, 4.0, seed=1)
    together = simulate(POOL, [*mine, *poisson("flood", 0.1, 5.0, seed=2)], SPAN_S)
    assert together.refused
    assert all("20 leases of tenant flood wait already" in why for why in together.refused.values())


def test_the_predicted_ready_time_of_a_queued_lease_accounts_for_those_before_it() -> None:
    """Twenty leases of exactly five seconds at once, on two slots: a pair every five seconds."""
    pool = replace(POOL, slot_count=2)
    lessons = [Arrival(float(n), f"early-{n}", "a", "m", 5.0) for n in range(0, 60, 6)]
    burst = [Arrival(100.0, f"burst-{n:02d}", "a", "m", 5.0) for n in range(20)]
    outcome = simulate(pool, [*lessons, *burst], SPAN_S)
    for arrival in burst:
        predicted_s = outcome.first_eta_s[arrival.lease_id]
        assert predicted_s is not None
        assert predicted_s == pytest.approx(outcome.waits_s[arrival.lease_id], rel=0.2, abs=0.5)


Drawn = tuple[float, str, int, float, Priority]  # at_s, tenant, model, work_s, priority
LEASES = st.lists(
    st.tuples(
        st.floats(0.0, 60.0),
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 3),
        st.floats(0.05, 8.0),
        st.sampled_from(["interactive", "normal", "batch"]),
    ),
    min_size=1,
    max_size=24,
)


def arrivals(drawn: list[Drawn], fingerprints: dict[str, str]) -> list[Arrival]:
    return [
        Arrival(at_s, f"{tenant}-{n}", tenant, f"{tenant}-{model}", work_s, priority, fingerprints.get(tenant, "f"))
        for n, (at_s, tenant, model, work_s, priority) in enumerate(drawn)
    ]


@settings(max_examples=10, deadline=None)
@given(LEASES, st.integers(1, 4), st.sampled_from([1.0, 3.0]))
def test_whatever_comes_every_lease_is_served_once_and_no_slot_rests_while_one_waits(
    drawn: list[Drawn], slot_count: int, weight: float
) -> None:
    pool = replace(POOL, slot_count=slot_count, fairness=FairnessSpec(weights={"a": weight}))
    wanted = arrivals(drawn, {})
    outcome = simulate(pool, wanted, 1e5)
    assert outcome.finished_at_s.keys() == {arrival.lease_id for arrival in wanted}
    assert sum(outcome.busy_slot_s.values()) == pytest.approx(sum(arrival.work_s for arrival in wanted))
    assert outcome.idle_slot_s == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=5, deadline=None)
@given(LEASES, st.integers(1, 4))
def test_architectures_that_cannot_swap_starve_nobody_either(drawn: list[Drawn], slot_count: int) -> None:
    wanted = arrivals(drawn, {"b": "g", "c": "h"})
    outcome = simulate(replace(POOL, slot_count=slot_count), wanted, 1e5)
    assert outcome.finished_at_s.keys() == {arrival.lease_id for arrival in wanted}
    assert sum(outcome.busy_slot_s.values()) == pytest.approx(sum(arrival.work_s for arrival in wanted))
    # Everybody's turn comes after the work that was there, and a few boots for each lease at the most.
    longest_s = sum(arrival.work_s for arrival in wanted) + 4 * FORK_S * len(wanted)
    assert max(outcome.waits_s.values()) <= longest_s
