"""Which target is asked first when some are cold."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pilotlight_gateway.routing.cold_choice import Order, TooLate, Wait, in_time_first, order
from pilotlight_gateway.routing.start_times import LAST_STARTS, StartTimes

SECONDS = st.sampled_from((0.0, 1.0, 3.0, 10.0, 50.0))
WAITS = st.lists(
    st.builds(Wait, st.none() | SECONDS, st.booleans(), SECONDS, st.none() | SECONDS), min_size=1, max_size=4
)
KEY = ("prod", "large", "short")


def is_late(wait: Wait) -> bool:
    return wait.seconds is not None and wait.seconds > wait.most_s


def is_hopeless(wait: Wait) -> bool:
    return is_late(wait) and (wait.at_best_s is None or wait.at_best_s > wait.most_s)


def lateness(wait: Wait) -> tuple[bool, bool]:
    return is_late(wait), is_hopeless(wait)


@given(WAITS, st.none() | SECONDS)
def test_none_is_asked_that_is_too_late_where_another_one_is_not(waits: list[Wait], patience_s: float | None) -> None:
    """Neither first nor in place of one that failed."""
    found = order(waits, patience_s)
    assert isinstance(found, TooLate) == all(map(is_hopeless, waits))
    if isinstance(found, TooLate):
        assert found.eta_s == min(wait.seconds or 0.0 for wait in waits) == waits[found.place].seconds
        return
    assert [waits[place] for place in in_time_first(waits)] == sorted(waits, key=lateness)
    late = [lateness(waits[place]) for place in found.places]
    assert late == sorted(late)
    assert late[0][0] == all(map(is_late, waits))
    assert not is_hopeless(waits[found.places[0]])
    assert sorted(found.places) == list(range(len(waits)))


@given(WAITS, st.none() | SECONDS)
def test_the_order_is_the_routes_as_far_as_patience_and_time_allow(waits: list[Wait], patience_s: float | None) -> None:
    found = order(waits, patience_s)
    if isinstance(found, TooLate):
        return
    first, behind = found.places[0], found.places[1:]
    assert (found.note == "") == (first == 0)
    assert list(behind) == sorted(behind, key=lambda place: (lateness(waits[place]), place))
    limits = [wait.most_s if patience_s is None else min(wait.most_s, patience_s) for wait in waits]
    soon = [place for place, wait in enumerate(waits) if (wait.seconds or 0.0) <= limits[place] or wait.seconds is None]
    if soon:
        assert first == soon[0]
    else:
        best = min(map(lateness, waits))
        assert waits[first].seconds == min(wait.seconds or 0.0 for wait in waits if lateness(wait) == best)


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


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20))
@example([0.2, 0.2, 0.2, 45.0])
def test_at_best_a_start_is_as_quick_as_the_quickest_of_the_last(took_s: list[float]) -> None:
    starts = StartTimes()
    assert starts.at_best_s(KEY, 0.0) is None
    for each in took_s:
        starts.observe(KEY, each)
    quickest_s = min(took_s[-LAST_STARTS:])
    assert starts.at_best_s(KEY, 0.0) == quickest_s
    starts.told(KEY, 9.0, 0.0)
    assert starts.at_best_s(KEY, 1.0) == max(8.0, quickest_s)
    assert starts.at_best_s(KEY, 9.0) == quickest_s
