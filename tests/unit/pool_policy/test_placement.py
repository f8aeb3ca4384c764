"""Placement by predicted ready time: one table of pools, and the stories that a table cannot tell."""

from dataclasses import replace
from typing import Any

import pytest

from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.placement import PlacementSpec, SlotView, place
from pilotlight_pool.policy.placement.prediction import PredictionSpec, PredictionState
from pilotlight_protocol.leases import Isolation

SPEC = PlacementSpec(PredictionSpec())
GB = 10**9
WISH = LeaseWish("l1", "acme", "mine", "f", weights_bytes=2 * GB, memory_bytes=8 * GB)


def slot(slot_id: str, engine: Engine | None = None, **facts: Any) -> SlotView:
    state = SlotState.IDLE if engine is not None else SlotState.EMPTY
    view = SlotView(slot_id, state, engine, (), tier="ram", memory_bytes=16 * GB)
    return replace(view, **facts)


LOADED = slot("loaded", Engine("mine", "f", "acme"))
ASLEEP = slot("asleep", sleeping=(Engine("mine", "f", "acme"),))
SAME = slot("same", Engine("other", "f", "acme"))
EMPTY = slot("empty")
BOOTING = slot("booting", Engine("mine", "f"), state=SlotState.BOOTING, busy_left_s=1.0)
FOREIGN = slot("foreign", Engine("other", "g", "acme"))


@pytest.mark.parametrize(
    ("pool", "expected", "eta_s"),
    [
        ([EMPTY, SAME, ASLEEP, LOADED], ("loaded", "loaded"), 0.005),
        ([EMPTY, SAME, ASLEEP], ("asleep", "wake"), 0.5),
        ([EMPTY, SAME], ("same", "swap"), 0.55),
        # Of the same fingerprint: woken and swapped. One that is awake and of no use goes to sleep first.
        ([EMPTY, slot("kin", sleeping=(Engine("other", "f"),))], ("kin", "wake"), 1.05),
        ([EMPTY, replace(FOREIGN, sleeping=ASLEEP.sleeping)], ("foreign", "wake"), 1.0),
        ([EMPTY, slot("kin", sleeping=(Engine("other", "f"),), swappable=False)], ("empty", "fork"), 4.5),
        ([slot("rival's", sleeping=(Engine("mine", "f", "globex", "reset"),))], ("rival's", "fork"), 4.5),
        ([EMPTY, FOREIGN], ("empty", "fork"), 4.5),
        ([FOREIGN], ("foreign", "fork"), 5.0),
        # The same weights in an engine with other arguments: neither its nor to be swapped.
        ([slot("other args", Engine("mine", "g", "acme"))], ("other args", "fork"), 5.0),
        ([slot("other args", sleeping=(Engine("mine", "g", "acme"),))], ("other args", "fork"), 4.5),
        ([replace(EMPTY, has_zygote=False)], ("empty", "boot"), 29.5),
        ([replace(SAME, swappable=False)], ("same", "fork"), 5.0),
        # Weights in RAM beat weights on disk, and an engine is worth more than a tier.
        ([replace(SAME, tier="disk"), replace(SAME, slot_id="ram")], ("ram", "swap"), 0.55),
        ([replace(SAME, tier="remote"), EMPTY], ("empty", "fork"), 4.5),
        # A boot under way for nobody is worth waiting for; a tenant's own lease that will end soon is too.
        (
            [slot("joins", Engine("mine", "f"), state=SlotState.BOOTING, busy_left_s=1.0), EMPTY],
            ("joins", "loaded"),
            1.0,
        ),
    ],
)
def test_the_lowest_predicted_ready_time_wins(pool: list[SlotView], expected: tuple[str, str], eta_s: float) -> None:
    placed = place(SPEC, WISH, pool, PredictionState(), now_s=0.0)
    assert placed.chosen is not None
    assert (placed.chosen.slot_id, placed.chosen.path) == expected
    assert placed.chosen.eta_s == pytest.approx(eta_s, abs=0.01)
    assert len(placed.ranked) == len(pool)
    assert all(reason for reason in placed.reasons)


@pytest.mark.parametrize(
    ("engine", "mode", "path"),
    [
        (Engine("mine", "f", "globex"), "shared", "loaded"),
        (Engine("mine", "f", "globex"), "reset", "fork"),
        (Engine("mine", "f", "globex", "reset"), "shared", "fork"),
        (Engine("mine", "f", "acme", "reset"), "reset", "loaded"),
        (Engine("other", "f", "acme", "dedicated"), "dedicated", "swap"),
        (Engine("mine", "f", "*"), "reset", "fork"),
        # Nobody else uses a dedicated process; its slot is like any other: parked, it may be stopped.
        (Engine("mine", "f", "globex", "dedicated"), "shared", "fork"),
    ],
)
def test_isolation_decides_whether_a_process_is_fresh(engine: Engine, mode: Isolation, path: str) -> None:
    placed = place(SPEC, replace(WISH, isolation=mode), [slot("s", engine)], PredictionState(), 0.0)
    assert (placed.chosen.path if placed.chosen else None) == path


def test_among_equals_what_was_used_longest_ago_is_overwritten() -> None:
    pool = [replace(SAME, slot_id="busy fine-tune", used_s=9.0), replace(SAME, slot_id="old one", used_s=1.0)]
    placed = place(SPEC, WISH, pool, PredictionState(), 0.0)
    assert placed.chosen is not None
    assert placed.chosen.slot_id == "old one"


def test_a_deadline_that_cannot_be_met_is_refused_at_once_with_numbers() -> None:
    wish = replace(WISH, deadline_at_s=102.0)
    placed = place(SPEC, wish, [EMPTY], PredictionState(), now_s=100.0)
    assert placed.verdict == "refuse"
    assert placed.reasons[0] == "ready in 4.50 s at the earliest, the deadline is in 2.00 s"
    assert place(SPEC, wish, [EMPTY, SAME], PredictionState(), now_s=100.0).verdict == "place"


def test_a_model_that_fits_no_slot_is_refused_and_never_queued() -> None:
    placed = place(SPEC, replace(WISH, memory_bytes=40 * GB), [EMPTY, SAME], PredictionState(), 0.0)
    assert placed.verdict == "refuse"
    assert "needs 40.0 GB, the largest of 2 slots has 16.0 GB" in placed.reasons[0]


def test_held_slots_make_it_queue_and_a_lease_about_to_end_beats_a_boot() -> None:
    held = replace(SAME, free=False)
    assert place(SPEC, WISH, [held], PredictionState(), 0.0).verdict == "queue"
    soon = replace(held, free_in_s=1.0)
    waits = place(SPEC, WISH, [soon, EMPTY], PredictionState(), 0.0)
    assert waits.verdict == "queue"
    assert waits.eta_s == pytest.approx(1.55)
    late = replace(held, free_in_s=60.0)
    assert place(SPEC, WISH, [late, EMPTY], PredictionState(), 0.0).verdict == "place"


def test_a_free_slot_is_preferred_to_preempting_and_preempting_says_why_and_not_whom() -> None:
    taken = replace(LOADED, free=False, preempts="l9", preempt_reason="idle for 3.0 s")
    alone = place(SPEC, WISH, [taken], PredictionState(), 0.0).chosen
    assert alone is not None
    assert alone.preempts == "l9"
    assert "preempts a lease: idle for 3.0 s" in alone.reason
    beside = place(SPEC, WISH, [replace(taken, slot_id="a"), LOADED], PredictionState(), 0.0).chosen
    assert beside is not None
    assert beside.preempts is None
