from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_store.transfer.plan import FileProgress, Run, merged, missing, next_run, prefix_bytes, without

MIB = 1024 * 1024
intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=12)


def covered(parts: tuple[tuple[int, int], ...]) -> set[int]:
    return {byte for start, end in parts for byte in range(start, end)}


@given(intervals)
def test_merged_is_the_same_bytes_in_order_without_touching(parts: list[tuple[int, int]]) -> None:
    result = merged(parts)
    assert covered(result) == covered(tuple(parts))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(result))


@given(st.integers(0, 60), intervals)
def test_missing_is_the_complement(size: int, parts: list[tuple[int, int]]) -> None:
    assert covered(missing(size, parts)) == set(range(size)) - covered(tuple(parts))


@given(intervals, st.integers(0, 60), st.integers(0, 60))
def test_without_takes_away_just_that(parts: list[tuple[int, int]], start: int, end: int) -> None:
    end = max(start, end)
    assert covered(without(parts, start, end)) == covered(tuple(parts)) - set(range(start, end))


@pytest.mark.parametrize(
    ("done", "prefix"),
    [((), 0), (((0, 5),), 5), (((3, 5),), 0), (((0, 5), (5, 9), (10, 12)), 9), (((2, 4), (0, 2)), 4)],
)
def test_the_prefix_ends_at_the_first_hole(done: tuple[tuple[int, int], ...], prefix: int) -> None:
    assert prefix_bytes(done) == prefix


def test_idle_files_come_first_each_as_one_request() -> None:
    files = [FileProgress(40 * MIB, ((0, 40 * MIB),)) for _ in range(4)]
    assert next_run(files, 4, 8 * MIB, 256 * MIB) == Run(0, 0, 40 * MIB)
    for number in range(1, 4):
        files[number - 1] = FileProgress(40 * MIB, (), busy=1)
        assert next_run(files, 4, 8 * MIB, 256 * MIB) == Run(number, 0, 40 * MIB)


def test_a_single_file_is_split_in_shares_that_shrink() -> None:
    file, lengths = FileProgress(1024 * MIB, ((0, 1024 * MIB),)), []
    while (run := next_run([file], 4, 8 * MIB, 256 * MIB)) is not None:
        lengths.append((run.end - run.start) // MIB)
        file = replace(file, free=without(file.free, run.start, run.end), busy=1)
    assert sum(lengths) == 1024
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (128, 8)


def test_a_file_without_ranges_is_one_worker_from_the_beginning() -> None:
    file = FileProgress(100, ((0, 100),), ranged=False)
    assert next_run([file], 4, 10, 20) == Run(0, 0, 100)
    assert next_run([replace(file, busy=1)], 4, 10, 20) is None


@given(
    sizes=st.lists(st.integers(0, 500), min_size=1, max_size=5),
    workers=st.integers(1, 6),
    chunk=st.integers(1, 40),
    longest=st.integers(40, 200),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_order_every_byte_is_fetched_once(sizes, workers, chunk, longest, order) -> None:
    files = [FileProgress(size, missing(size, ())) for size in sizes]
    fetched: list[set[int]] = [set() for _ in sizes]
    flying: list[Run] = []
    while True:
        run = next_run(files, workers, chunk, longest) if len(flying) < workers else None
        if run is not None:
            assert 0 < run.end - run.start <= longest
            assert run.start % chunk == 0
            flying.append(run)
            file = files[run.file]
            files[run.file] = replace(file, free=without(file.free, run.start, run.end), busy=file.busy + 1)
        elif flying:
            ended = flying.pop(order.randrange(len(flying)))
            span = set(range(ended.start, ended.end))
            assert not span & fetched[ended.file]
            fetched[ended.file] |= span
            files[ended.file] = replace(files[ended.file], busy=files[ended.file].busy - 1)
        else:
            break
    assert fetched == [set(range(size)) for size in sizes]
