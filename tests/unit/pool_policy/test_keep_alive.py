"""Keep-alive plans, told through the gaps that an endpoint has had."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_pool.policy.keep_warm.idle_histogram import (
    LOWER_S,
    UPPER_S,
    IdleHistogram,
    bin_of,
    is_representative,
    record,
)
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec, decide

SPEC = KeepAliveSpec(price_slot_s=300.0)
HOUR_S = 3600.0


def after(*gaps_s: float) -> IdleHistogram:
    histogram = IdleHistogram()
    for gap_s in gaps_s:
        histogram = record(histogram, gap_s)
    return histogram


@given(st.floats(0.0, 1e6))
def test_every_gap_has_the_bin_that_holds_it(gap_s: float) -> None:
    index = bin_of(gap_s)
    assert LOWER_S[index] <= gap_s or gap_s <= 1.0
    assert gap_s <= UPPER_S[index] * 1.0000001 or index == len(UPPER_S) - 1


def test_a_new_endpoint_gets_the_standard_keep_alive() -> None:
    plan = decide(SPEC, after(20.0, 30.0))
    assert (plan.basis, plan.keep_s) == ("standard", 300.0)
    assert "2 gaps seen" in plan.reason


def test_a_chatty_endpoint_is_kept_through_its_short_gaps_and_no_longer() -> None:
    plan = decide(SPEC, after(*[20.0] * 95, *[5 * HOUR_S] * 5))
    assert plan.basis == "histogram"
    assert 20.0 <= plan.keep_s <= 25.0


def test_an_endpoint_with_hours_between_sessions_is_released_at_once() -> None:
    plan = decide(SPEC, after(*[3 * HOUR_S, 7 * HOUR_S, 11 * HOUR_S, HOUR_S] * 5))
    assert plan.keep_s == 0.0


def test_the_price_is_the_knob() -> None:
    gaps = after(*[10.0] * 50, *[200.0] * 30, *[2000.0] * 20)
    kept = [decide(KeepAliveSpec(price_slot_s=price), gaps).keep_s for price in (0.0, 20.0, 300.0, 30_000.0)]
    assert kept == sorted(kept)
    assert kept[0] == 0.0
    assert kept[-1] >= 2000.0


def test_gaps_beyond_all_bounds_are_not_representative() -> None:
    assert not is_representative(after(*[200 * HOUR_S] * 20), min_gaps=8, max_out_of_bounds=0.5)
    assert is_representative(after(*[2 * HOUR_S] * 20), min_gaps=8, max_out_of_bounds=0.5)


def test_a_changed_habit_is_learned() -> None:
    histogram = after(*[10.0] * 500)
    for _ in range(1000):
        histogram = record(histogram, HOUR_S / 2)
    assert decide(SPEC, histogram).keep_s < 15.0


@given(st.lists(st.floats(0.0, 1e5), min_size=8, max_size=60), st.floats(1.0, 1e5))
def test_no_plan_costs_more_than_releasing_at_once(gaps_s: list[float], price: float) -> None:
    """In hindsight, on the gaps it learned from: within the width of a bin, 19 %."""
    plan = decide(KeepAliveSpec(price_slot_s=price), after(*gaps_s))
    if plan.basis != "histogram":
        return
    cost = sum(min(gap_s, plan.keep_s) + (price if gap_s > plan.keep_s else 0.0) for gap_s in gaps_s)
    assert cost <= 1.25 * price * len(gaps_s) + 2.0 * len(gaps_s)
