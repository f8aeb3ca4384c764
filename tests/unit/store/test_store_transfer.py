"""The transfer against a source of our own: no sockets, and time only where a thread has to be waited for."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight_protocol.back_off import BackOff
from pilotlight_store.errors import DownloadCancelled, SourceUnavailable, VerificationFailed
from pilotlight_store.sources.source import Listing, RemoteFile
from pilotlight_store.transfer.bandwidth_gate import BandwidthGate
from pilotlight_store.transfer.disk import Staging, journal_intervals
from pilotlight_store.transfer.retry import RetryRules
from pilotlight_store.transfer.transfer import Transfer, TransferSettings

CHUNK = 64 * 1024
SETTINGS = TransferSettings(
    workers=3,
    chunk_bytes=CHUNK,
    longest_run_bytes=4 * CHUNK,
    retries=RetryRules(attempts=4, back_off=BackOff(0.0, 20.0)),
)


class MemorySource:
    """Serves bytes; `trouble` may raise, or change what a block holds."""

    uri = identity = "memory://model"

    def __init__(self, *contents: bytes, ranged: bool = True) -> None:
        self.files = tuple(
            RemoteFile(f"file-{number}.safetensors", len(content), str(number), ranged=ranged)
            for number, content in enumerate(contents)
        )
        self.contents = contents
        self.trouble: Callable[[int, int, bytes], bytes] = lambda number, position, block: block
        self.fetched: list[tuple[int, int, int]] = []
        self.aborted = threading.Event()

    def listing(self) -> Listing:
        return Listing(self.files)

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        number = int(file.locator)
        while start < end:
            stop = min(start + CHUNK // 4, end)
            block = self.trouble(number, start, self.contents[number][start:stop])
            self.fetched.append((number, start, stop))
            yield memoryview(block)
            start = stop

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        pass


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def run(
    source: MemorySource,
    folder: Path,
    cancel: threading.Event | None = None,
    settings: TransferSettings = SETTINGS,
) -> tuple[str, ...]:
    staging = Staging(folder, source.files)
    transfer = Transfer(source, source.files, staging, settings, BandwidthGate(None), cancel or threading.Event())
    return transfer.run(lambda: None)


@pytest.mark.parametrize("sizes", [(0,), (1,), (CHUNK,), (20 * CHUNK + 7,), (5, 9 * CHUNK, 0, 3 * CHUNK + 1, CHUNK)])
@pytest.mark.parametrize("ranged", [True, False])
def test_files_arrive_whole_and_hashed(tmp_path: Path, sizes: tuple[int, ...], ranged: bool) -> None:
    contents = [content(size) for size in sizes]
    source = MemorySource(*contents, ranged=ranged)
    assert run(source, tmp_path) == tuple(hashlib.sha256(body).hexdigest() for body in contents)
    for file, body in zip(source.files, contents, strict=True):
        assert (tmp_path / "files" / file.name).read_bytes() == body
    assert sum(end - start for _, start, end in source.fetched) == sum(sizes)


@pytest.mark.parametrize("ranged", [True, False])
def test_failures_cost_the_chunk_under_way_and_are_tried_again(tmp_path: Path, ranged: bool) -> None:
    body = content(10 * CHUNK)
    source = MemorySource(body, ranged=ranged)
    failing = {3 * CHUNK + CHUNK // 2, 7 * CHUNK}

    def trouble(number: int, position: int, block: bytes) -> bytes:
        if position in failing:
            failing.discard(position)
            raise SourceUnavailable("hiccup")
        return block

    source.trouble = trouble
    assert run(source, tmp_path) == (hashlib.sha256(body).hexdigest(),)
    again = sum(end - start for _, start, end in source.fetched) - len(body)
    assert again <= (2 * CHUNK if ranged else 2 * len(body))


def test_a_source_that_only_fails_is_given_up_on_with_the_way_on(tmp_path: Path) -> None:
    source = MemorySource(content(CHUNK))

    def trouble(number: int, position: int, block: bytes) -> bytes:
        raise SourceUnavailable("down")

    source.trouble = trouble
    with pytest.raises(SourceUnavailable, match=r"4 attempts.*goes on from here"):
        run(source, tmp_path)
    assert source.aborted.is_set()


def test_more_bytes_than_asked_for_are_refused(tmp_path: Path) -> None:
    source = MemorySource(content(CHUNK))
    source.trouble = lambda number, position, block: block + b"x" * CHUNK
    with pytest.raises(VerificationFailed, match="more than it was asked for"):
        run(source, tmp_path)


def test_a_wrong_hash_is_an_error_and_names_both(tmp_path: Path) -> None:
    source = MemorySource(content(3 * CHUNK))
    source.files = (replace(source.files[0], sha256="00" * 32),)
    with pytest.raises(VerificationFailed, match="promised is 0000"):
        run(source, tmp_path)


def test_gits_object_id_is_checked_too(tmp_path: Path) -> None:
    body = b"{}\n"
    source = MemorySource(body)
    blob = hashlib.sha1(b"blob 3\0" + body, usedforsecurity=False).hexdigest()
    source.files = (replace(source.files[0], git_sha1=blob),)
    assert run(source, tmp_path / "good")
    source.files = (replace(source.files[0], git_sha1="0" * 40),)
    with pytest.raises(VerificationFailed):
        run(source, tmp_path / "bad")


def test_cancelling_ends_it_and_the_next_run_goes_on(tmp_path: Path) -> None:
    body = content(12 * CHUNK)
    source = MemorySource(body)
    cancel, held = threading.Event(), threading.Event()

    def trouble(number: int, position: int, block: bytes) -> bytes:
        if position >= 6 * CHUNK:
            cancel.set()
            held.wait(20)
        return block

    source.trouble = trouble
    source.abort = held.set  # type: ignore[method-assign]  # a fake's
    with pytest.raises(DownloadCancelled):
        run(source, tmp_path, cancel)
    before = list(source.fetched)
    source.trouble = lambda number, position, block: block
    assert run(source, tmp_path) == (hashlib.sha256(body).hexdigest(),)
    twice = sum(end - start for _, start, end in source.fetched) - len(body)
    assert before
    assert twice <= SETTINGS.workers * CHUNK


def test_a_source_that_keeps_its_connection_and_sends_nothing_is_given_up_on(tmp_path: Path) -> None:
    source, held = MemorySource(content(3 * CHUNK)), threading.Event()

    def trouble(number: int, position: int, block: bytes) -> bytes:
        if position >= CHUNK:
            held.wait(20)
        return block

    source.trouble = trouble
    source.abort = held.set  # type: ignore[method-assign]  # a fake's
    with pytest.raises(SourceUnavailable, match="nothing arrived for 0 s; try again later, it goes on from here"):
        run(source, tmp_path, settings=replace(SETTINGS, stall_s=0.3))


def test_bytes_that_the_disk_lost_are_found_and_fetched_again(tmp_path: Path) -> None:
    body = content(4 * CHUNK)
    source = MemorySource(body)
    source.files = (replace(source.files[0], sha256=hashlib.sha256(body).hexdigest()),)
    staging = Staging(tmp_path, source.files)
    staging.open()
    staging.record(0, 0, 2 * CHUNK)  # promised, never written: a power failure
    staging.close()
    assert run(source, tmp_path) == (hashlib.sha256(body).hexdigest(),)
    assert (tmp_path / "files" / source.files[0].name).read_bytes() == body


def test_after_a_crash_of_the_machine_a_file_nobody_promised_is_fetched_anew(tmp_path: Path) -> None:
    body = content(4 * CHUNK)
    source = MemorySource(body)
    staging = Staging(tmp_path, source.files)
    staging.open()
    staging.record(0, 0, 4 * CHUNK)  # says that all is there; the disk has zeros
    staging.close()
    journal = tmp_path / "journal"
    assert Staging(tmp_path, source.files).open() == [((0, 4 * CHUNK),)]
    lines = journal.read_text().splitlines()
    journal.write_text("".join(f"{'boot another' if line.startswith('boot ') else line}\n" for line in lines))
    assert run(source, tmp_path) == (hashlib.sha256(body).hexdigest(),)
    assert (tmp_path / "files" / source.files[0].name).read_bytes() == body
    assert Staging(tmp_path, source.files).open() == [((0, 4 * CHUNK),)]


@pytest.mark.parametrize(
    ("journal", "intervals"),
    [
        (b"", ()),
        (b"0 0 10\n0 10 20\n", ((0, 20),)),
        (b"0 0 10\n0 10 2", ((0, 10),)),
        (b"0 0 10\n0\n0 20 30\n", ((20, 30),)),
        (b"0 0 10\nnonsense\n7 0 10\n0 90 200\n0 5 5\n-1 0 1\n\n", ((0, 10),)),
    ],
)
def test_the_journal_is_read_up_to_a_torn_line(
    tmp_path: Path, journal: bytes, intervals: tuple[tuple[int, int], ...]
) -> None:
    (tmp_path / "journal").write_bytes(journal)
    assert journal_intervals(tmp_path / "journal", [100]) == [intervals]
    assert journal_intervals(tmp_path / "none", [100]) == [()]
