"""Which of the processes that start are given up as stopped."""

from __future__ import annotations

from pilotlight_pool.agent.stopped_processes import StoppedProcesses


def told(looks: int, *seen: set[int]) -> list[list[int]]:
    """Who is told at each look, where these are stopped at it, of processes 1, 2 and 3."""
    stopped: set[int] = set()
    processes = StoppedProcesses(looks, lambda pid: pid in stopped)
    answers = []
    for now in seen:
        stopped = now
        answers.append(processes.look([1, 2, 3]))
    return answers


def test_who_is_stopped_at_every_look_is_told() -> None:
    assert told(3, {1}, {1, 2}, {1, 2}, {2}) == [[], [], [1], [2]]


def test_a_pause_begins_anew_after_each_sign_of_life() -> None:
    assert told(3, {1}, {1}, set(), {1}, {1}, {1}) == [[], [], [], [], [], [1]]


def test_who_is_watched_no_more_is_forgotten() -> None:
    processes = StoppedProcesses(2, lambda pid: True)
    assert processes.look([1]) == []
    assert processes.look([]) == []
    assert processes.look([1]) == []
    assert processes.look([1, 2]) == [1]
