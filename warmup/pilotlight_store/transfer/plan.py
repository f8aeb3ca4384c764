"""Which bytes a worker fetches next. Pure: intervals in, one run out.

A *chunk* is what the journal records and what a crash can cost again; a *run* is one request, of one or many chunks.
Workers first spread over files (one request each: what object stores serve best), then split what is left of a file
in guided shares (Polychronopoulos and Kuck, 1987): large ones first, smaller towards the end, so that all finish
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Interval = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """Bytes [start, end) of file number `file`."""

    file: int
    start: int
    end: int


@dataclass(frozen=True)
class FileProgress:
    """`free`: intervals nobody has or fetches, in order; `busy`: workers on it; `ranged`: the source serves ranges."""

    size_bytes: int
    free: tuple[Interval, ...]
    busy: int = 0
    ranged: bool = True


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same bytes as ordered intervals that neither touch nor overlap; empty ones are dropped."""
    result: list[Interval] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return tuple(result)


def missing(size_bytes: int, done: Iterable[Interval]) -> tuple[Interval, ...]:
    """What of [0, size_bytes) is not in `done`."""
    result: list[Interval] = []
    position = 0
    for start, end in merged(done):
        if start > position:
            result.append((position, min(start, size_bytes)))
        position = max(position, end)
    if position < size_bytes:
        result.append((position, size_bytes))
    return tuple(result)


def without(intervals: Iterable[Interval], start: int, end: int) -> tuple[Interval, ...]:
    """`intervals` less the bytes [start, end)."""
    return merged(part for low, high in intervals for part in ((low, min(high, start)), (max(low, end), high)))


def prefix_bytes(done: Iterable[Interval]) -> int:
    """How many bytes from the beginning are there without a hole: as far as sha256 can go."""
    first = next(iter(merged(done)), (0, 0))
    return first[1] if first[0] == 0 else 0


def next_run(files: Sequence[FileProgress], workers: int, chunk_bytes: int, longest_bytes: int) -> Run | None:
    """The next request, or None when everything is fetched or being fetched.

    A file nobody is on comes first, in order. A file without ranges is one run. Runs begin and end on chunk borders
    (but for a file's end), and none is longer than `longest_bytes`.
    """
    idle = [number for number, file in enumerate(files) if file.free and file.busy == 0]
    if idle:
        chosen = idle[0]
        # A file that is all there is gets every worker, one of many gets one: object stores like few large requests.
        shares = max(1, workers * files[chosen].size_bytes // max(1, sum(file.size_bytes for file in files)))
    else:
        open_files = [number for number, file in enumerate(files) if file.free and file.ranged]
        if not open_files:
            return None
        chosen, shares = max(open_files, key=lambda number: (_left_bytes(files[number]), -number)), workers
    file = files[chosen]
    start, end = file.free[0]
    if not file.ranged:
        return Run(chosen, 0, file.free[-1][1])
    share = end - start if shares == 1 else _left_bytes(file) // (2 * shares)
    length = min(longest_bytes, max(chunk_bytes, share))
    return Run(chosen, start, min(end, _chunk_border(start + length, chunk_bytes, end)))


def _left_bytes(file: FileProgress) -> int:
    return sum(end - start for start, end in file.free)


def _chunk_border(position: int, chunk_bytes: int, end: int) -> int:
    return end if position >= end else max(1, position // chunk_bytes) * chunk_bytes
