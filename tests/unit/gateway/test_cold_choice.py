"""Which target is asked first when some are cold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.routing.cold_choice import Order, TooLate, Wait, order
from pilotlight_gateway.routing.start_times import StartTimes

SECONDS = st.sampled_from((0.0, 1.0, 3.0, 10.0, 50.0))
WAITS = st.lists(st.builds(Wait, st.none() | SECONDS, st.booleans(), SECONDS), min_size=1, max_size=4)
KEY = ("prod", "large", "short")


@given(WAITS, st.none() | SECONDS)
def test_nobody_waits_longer_than_needed_and_nothing_is_lost(waits: list[Wait], patience_s: float | None) -> None:
    found = order(waits, patience_s)
    known = [wait.seconds for wait in waits if wait.seconds is not None]
    if isinstance(found, TooLate):
        assert len(known) == len(waits)
        assert found.eta_s == min(known) == waits[found.place].seconds
        assert found.eta_s > waits[found.place].most_s
        return
    assert sorted(found.places) == list(range(len(waits)))
    first = waits[found.places[0]]
    assert (found.note == "") == (found.places[0] == 0)
    assert list(found.places[1:]) == sorted(found.places[1:])
    if first.seconds is None:
        return
    assert first.seconds <= first.most_s
    if patience_s is not None and first.seconds > patience_s:
        assert first.seconds == min(known)
        assert len(known) == len(waits)
    # Those that stood before it were too late, or not worth the wait.
    limits = [wait.most_s if patience_s is None else min(wait.most_s, patience_s) for wait in waits]
    assert all(
        (waits[place].seconds or 0.0) > limits[place] or first.seconds <= (waits[place].seconds or 0.0)
        for place in range(found.places[0])
    )


def test_without_patience_the_first_is_waited_for_as_long_as_the_request_may_last() -> None:
    assert order([Wait(10.0, True, 30.0), Wait(0.0, False, 30.0)], None) == Order((0, 1))
    assert order([Wait(40.0, True, 30.0), Wait(0.0, False, 30.0)], None) == Order((1, 0), "cold 40.0 s")


def test_starts_are_a_moving_average_and_what_is_told_ends() -> None:
    starts = StartTimes()
    assert starts.predicted_s(KEY, 0.0) is None
    starts.told(KEY, 9.0, 0.0)
    assert starts.predicted_s(KEY, 4.0) == 5.0
    assert starts.predicted_s(KEY, 9.0) is None
    for _ in range(30):
        starts.observe(KEY, 2.0)
    starts.observe(KEY, 12.0)
    assert starts.predicted_s(KEY, 0.0) == 5.0
    starts.told(KEY, 9.0, 0.0)
    assert (starts.predicted_s(KEY, 1.0), starts.predicted_s(KEY, 8.0)) == (8.0, 5.0)
