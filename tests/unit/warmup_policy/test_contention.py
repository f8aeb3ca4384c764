"""Fairness in virtual time: the coordinator's own policies, a tenant that floods, and one that does not."""

import random
from dataclasses import replace

import pytest
from pilotlight_warmup.policy.fairness import FairnessSpec
from pilotlight_warmup.policy.placement import PlacementSpec
from pilotlight_warmup.policy.prediction import PredictionSpec
from pilotlight_warmup.simulator.contention import Arrival, Outcome, Pool, simulate

SWAP_S = 0.2
POOL = Pool(
    slot_count=4,
    fairness=FairnessSpec(max_waiting_per_tenant=20),
    placement=PlacementSpec(
        PredictionSpec(process_s={"loaded": 0.0, "wake": 0.5, "swap": SWAP_S, "fork": 4.0, "boot": 29.0})
    ),
)
SPAN_S = 900.0


def poisson(tenant: str, every_s: float, work_s: float, seed: int, priority: str = "normal") -> list[Arrival]:
    """A quarter of an hour of leases over twenty fine-tunes of one architecture."""
    chance, at_s, found = random.Random(seed), 0.0, []
    while True:
        at_s += chance.expovariate(1 / every_s)
        if at_s > SPAN_S:
            return found
        name, model = f"{tenant}-{len(found)}", f"{tenant}-model-{chance.randrange(20)}"
        found.append(Arrival(at_s, name, tenant, model, chance.expovariate(1 / work_s), priority))  # type: ignore[arg-type]


def p95(outcome: Outcome, tenant: str) -> float:
    waits = sorted(wait for lease_id, wait in outcome.waits_s.items() if lease_id.startswith(f"{tenant}-"))
    return waits[int(0.95 * len(waits))]


@pytest.mark.parametrize("flood_priority", ["batch", "normal", "interactive"])
@pytest.mark.parametrize(("every_s", "work_s"), [(20.0, 4.0), (5.0, 4.0)], ids=["now and then", "a fifth of the pool"])
def test_a_flood_does_not_double_the_p95_wait_of_another_tenant(
    flood_priority: str, every_s: float, work_s: float
) -> None:
    quiet = poisson("quiet", every_s, work_s, seed=1, priority="interactive")
    # Two leases a second of five seconds each on four slots: two and a half times what the pool can do.
    flood = poisson("flood", 0.5, 5.0, seed=2, priority=flood_priority)
    alone = simulate(POOL, quiet, SPAN_S)
    together = simulate(POOL, [*quiet, *flood], SPAN_S)
    assert p95(together, "quiet") <= 2 * p95(alone, "quiet")
    assert len([lease for lease in together.waits_s if lease.startswith("quiet")]) >= len(alone.waits_s) - 1


def test_the_flood_gets_what_the_quiet_tenant_leaves() -> None:
    quiet = poisson("quiet", 20.0, 4.0, seed=1, priority="interactive")
    flood = poisson("flood", 0.5, 5.0, seed=2)
    together = simulate(POOL, [*quiet, *flood], SPAN_S)
    # Swaps and drains are the only time that slots do not work.
    assert together.busy_slot_s > 0.88 * POOL.slot_count * SPAN_S


def test_with_no_contention_nobody_waits_longer_than_a_swap() -> None:
    alone = simulate(POOL, poisson("quiet", 20.0, 4.0, seed=1), SPAN_S)
    together = simulate(POOL, [*poisson("quiet", 30.0, 2.0, seed=1), *poisson("other", 30.0, 2.0, seed=3)], SPAN_S)
    assert max(alone.waits_s.values()) <= SWAP_S + POOL.drain_s + 1e-6
    assert p95(together, "quiet") <= SWAP_S + 1e-6


def test_two_floods_share_by_weight() -> None:
    pool = replace(POOL, fairness=replace(POOL.fairness, weights={"gold": 3.0}))
    both = simulate(pool, [*poisson("gold", 0.5, 5.0, seed=1), *poisson("iron", 0.5, 5.0, seed=2)], SPAN_S)
    work = {"gold": 0.0, "iron": 0.0}
    for arrival in [*poisson("gold", 0.5, 5.0, seed=1), *poisson("iron", 0.5, 5.0, seed=2)]:
        if arrival.lease_id in both.finished_at_s:
            work[arrival.tenant] += arrival.work_s
    assert 2.5 < work["gold"] / work["iron"] < 3.5


def test_interactive_work_within_the_share_is_never_preempted() -> None:
    quiet = poisson("quiet", 5.0, 4.0, seed=1, priority="interactive")
    flood = poisson("flood", 0.5, 5.0, seed=2, priority="interactive")
    together = simulate(POOL, [*quiet, *flood], SPAN_S)
    assert not [lease for lease in together.preemptions if lease.startswith("quiet")]


def test_a_full_queue_refuses_with_numbers_and_only_the_flood() -> None:
    quiet = poisson("quiet", 20.0, 4.0, seed=1)
    together = simulate(POOL, [*quiet, *poisson("flood", 0.1, 5.0, seed=2)], SPAN_S)
    assert together.refused
    assert all("20 leases of tenant flood wait already" in why for why in together.refused.values())
