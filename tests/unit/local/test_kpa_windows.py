"""Metric windows: what is averaged, over how much of the window, and when there is nothing to say."""

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_local.kpa.window import MaxWindow, MetricWindow, max_window


def filled(size: int, values: dict[float, float]) -> MetricWindow:
    window = MetricWindow(size=size)
    for at_s, value in values.items():
        window = window.record(at_s, value)
    return window


def test_a_half_filled_window_averages_what_it_has() -> None:
    window = filled(60, {0: 10, 1: 20, 2: 30})
    assert window.average(2) == 20


def test_values_of_one_second_are_summed_as_several_reporters_of_one_revision() -> None:
    assert filled(60, {0.1: 3, 0.9: 4}).average(0.95) == 7


def test_five_minutes_pass_four_scroll_out() -> None:
    window = MetricWindow(size=60)
    for minute in range(5):
        for second in range(60):
            window = window.record(minute * 60 + second, minute + 1)
    assert window.average(299) == 5
    assert len(window.buckets) == 60


def test_seconds_without_a_report_count_as_zero_inside_the_filled_part() -> None:
    assert filled(60, {0: 30, 2: 30}).average(2) == 20


def test_silence_after_the_last_report_leaves_the_average_alone_until_buckets_scroll_out() -> None:
    window = filled(10, dict.fromkeys(range(10), 5.0))
    assert window.average(9) == 5
    assert window.average(14) == 5
    assert window.average(18) == 5
    assert window.average(19) == 0


def test_a_silent_window_is_empty_and_starts_afresh() -> None:
    window = filled(10, {0: 100.0})
    assert not window.is_empty(10)
    assert window.is_empty(11)
    assert window.record(30, 2).average(30) == 2


def test_a_late_report_counts_inside_the_window_and_is_dropped_outside() -> None:
    window = filled(10, {20: 10.0})
    assert window.record(15, 10).average(20) == round(20 / 6, 6)
    assert window.record(10, 10) == window


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1000)), max_size=60), st.integers(1, 60))
def test_the_average_lies_between_nothing_and_the_sum(reports, size) -> None:
    window = MetricWindow(size=size)
    for at_s, value in sorted(reports):
        window = window.record(at_s, value)
    now_s = max((at_s for at_s, _ in reports), default=0.0)
    assert 0 <= window.average(now_s) <= sum(value for _, value in reports) + 1e-5
    assert len(window.buckets) <= size


def test_the_maximum_window_holds_a_value_for_its_length() -> None:
    window = max_window(delay_s=6, tick_s=2)
    seen = []
    for tick, pods in enumerate([5, 3, 3, 3, 3]):
        window = window.record(tick * 2, pods)
        seen.append(window.current)
    assert seen == [5, 5, 5, 3, 3]


def test_the_maximum_window_takes_the_larger_of_one_tick() -> None:
    window = MaxWindow(size=3, granularity_s=2).record(0, 5).record(0.5, 3)
    assert window.current == 5
    assert window.record(1, 9).current == 9
