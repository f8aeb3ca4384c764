"""One batch's lines over a real folder: each is run once and written once, whatever happens to disk, time and keys."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import DEADLINE_S, until_async

from pilotlight_gateway.batches.batch_records import Batch, came_to
from pilotlight_gateway.batches.batch_run import ERRORS, OUTPUT, BatchRun, Means, OutputTooLarge
from pilotlight_gateway.batches.batch_runner import BatchRunner
from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_folder import FileFolder, PartWriter, new_id
from pilotlight_gateway.batches.file_records import FileRecord
from pilotlight_gateway.batches.sqlite_batches import AHEAD_BYTES, FILE_NAME, SqliteBatches
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.errors import TooManyRequests, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext

ENDPOINT = "/v1/completions"
BAD = b"no request\n"


def good(number: int) -> bytes:
    return json.dumps({"custom_id": f"{number}", "url": ENDPOINT, "body": {"model": "m"}}).encode() + b"\n"


class FullFile(FileIO):
    """Takes `room` bytes, and half a piece where that is all there is room for."""

    room = 0

    def write(self, data: object, /) -> int:
        assert isinstance(data, memoryview)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = super().write(data[: self.room])
        self.room -= taken
        return taken


class Folder(FileFolder):
    """`room`: of each part that is opened from now on; `writes`: is called in the thread before a write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.room: int | None = None
        self.writes: Callable[[], None] = lambda: None

    def writer(self, file_id: str, part: str) -> PartWriter:
        with super().writer(file_id, part):
            pass
        return Watched(FullFile(self._part(file_id, part), "ab"), self)


class Watched(PartWriter):
    def __init__(self, file: FullFile, folder: Folder) -> None:
        super().__init__(file)
        self._full, self._folder = file, folder

    def write(self, piece: bytes) -> int:
        self._folder.writes()
        self._full.room = 1 << 40 if self._folder.room is None else self._folder.room
        return super().write(piece)


class World:
    def __init__(self, folder: Path, lines: list[bytes]) -> None:
        self.folder = Folder(folder / "files")
        self.total = len(lines)
        self.input_id = new_id("file-")
        with self.folder.writer(self.input_id, "upload") as writer:
            writer.write(b"".join(lines))
        self.folder.publish(self.input_id, "upload", self.input_id)
        self.batch = Batch(new_id("batch_"), "team", "key", ENDPOINT, self.input_id, "24h", 0.0, 9e9)
        self.asked: Counter[str] = Counter()
        self.quota_bytes = 1 << 30
        self.pauses: list[float] = []
        self.paused: Callable[[], None] = lambda: None
        self.stale: Iterator[bool] = iter(())
        self.opened = asyncio.Event()
        self.opened.set()
        self.run = BatchRun(
            self.batch, Means(self.folder, self.answer, self.caller, BatchSettings(), self.charge, pause=self.pause)
        )

    def caller(self, tenant: str, key_id: str) -> Caller:
        if next(self.stale, False):
            raise Unavailable("nobody knows")
        return Caller(tenant, key_id)

    async def answer(self, caller: Caller, request: StoredRequest, context: RequestContext) -> Reply:
        self.asked[context.request_id] += 1
        await self.opened.wait()
        return Reply(b"{}")

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused()
        await asyncio.sleep(0)

    def charge(self, batch: Batch, size_bytes: int) -> int:
        if self.quota_bytes < size_bytes:
            raise TooManyRequests("full")
        return min(size_bytes + 100, self.quota_bytes)

    def written(self, part: str) -> list[str]:
        return [json.loads(line)["id"] for line in self.folder.written(self.batch.id, part)]

    def check_whole(self) -> None:
        """Every line is told once, as what it became, and is counted so."""
        self.run.close()
        output, errors = self.written(OUTPUT), self.written(ERRORS)
        assert len({*output, *errors}) == len(output) + len(errors) == self.total
        assert (self.run.completed, self.run.failed) == (len(output), len(errors))
        assert set(self.asked.values()) <= {1}


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(0, 60))
def test_of_a_piece_that_the_disk_has_no_room_for_nothing_stays(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], room: int
) -> None:
    path = tmp_path_factory.mktemp("disk") / "part"
    file = FullFile(path, "ab")
    file.room, whole = room, b""
    with PartWriter(file) as writer:
        for piece in pieces:
            try:
                writer.write(piece)
            except Unavailable:
                break
            whole += piece
        assert writer.size_bytes == len(whole)
    assert path.read_bytes() == whole


async def test_no_line_runs_while_the_disk_is_full(tmp_path: Path) -> None:
    world = World(tmp_path, [good(number) for number in range(5)])
    world.folder.room = 10

    def repaired() -> None:
        assert not world.asked
        if len(world.pauses) == 3:
            world.folder.room = None

    world.paused = repaired
    await world.run.read_through()
    await world.run.lines()
    assert len(world.pauses) == 3
    assert sorted(path.suffix for path in (tmp_path / "files").iterdir()) == ["", ".output"]
    world.check_whole()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 8), st.lists(st.booleans(), min_size=31, max_size=31))
async def test_a_disk_that_is_full_in_between_bills_no_line_twice(
    tmp_path_factory: pytest.TempPathFactory, writes: int, pauses: int, bad: list[bool]
) -> None:
    lines = [BAD if each else good(number) for number, each in enumerate(bad)]
    world = World(tmp_path_factory.mktemp("batch"), lines)
    left = writes

    def fills() -> None:
        nonlocal left
        left -= 1
        if not left:
            world.folder.room = 7

    def repaired() -> None:
        if len(world.pauses) == pauses:
            world.folder.room = None

    world.folder.writes, world.paused = fills, repaired
    await world.run.read_through()
    await world.run.lines()
    world.check_whole()
    assert len(world.written(ERRORS)) == sum(bad)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 25), st.lists(st.booleans(), min_size=25, max_size=25))
async def test_at_the_end_of_its_time_each_line_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, writes: int, bad: list[bool]
) -> None:
    lines = [BAD if each else good(number) for number, each in enumerate(bad)]
    world = World(tmp_path_factory.mktemp("batch"), lines)
    loop = asyncio.get_running_loop()
    await world.run.read_through()
    running = asyncio.create_task(world.run.lines())
    left, cancelled = writes + 1, threading.Event()  # the first is on trial
    ended_before_its_line_was_written = False

    async def cancel() -> None:
        nonlocal ended_before_its_line_was_written
        running.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        ended_before_its_line_was_written = running.done()
        cancelled.set()

    def cut() -> None:
        """While a line is being written."""
        nonlocal left
        left -= 1
        if not left:
            asyncio.run_coroutine_threadsafe(cancel(), loop)
            assert cancelled.wait(DEADLINE_S)

    world.folder.writes = cut
    await asyncio.wait({running})
    assert await asyncio.to_thread(cancelled.wait, DEADLINE_S)
    assert not ended_before_its_line_was_written
    await world.run.expire()
    world.check_whole()


async def test_a_line_that_is_written_is_not_written_again(tmp_path: Path) -> None:
    world = World(tmp_path, [good(0)])
    await world.run.read_through()
    await world.run.lines()
    await world.run._write(ERRORS, 1, b"{}\n")
    world.check_whole()


async def test_what_runs_goes_on_where_nobody_knows_whose_keys_are_good(tmp_path: Path) -> None:
    world = World(tmp_path, [good(number) for number in range(40)])
    world.stale = iter([number % 3 == 1 for number in range(60)])
    await world.run.read_through()
    await world.run.lines()
    assert world.pauses
    world.check_whole()


async def test_what_is_too_late_ends_first_and_waits_for_a_disk_to_say_so(tmp_path: Path) -> None:
    world = World(tmp_path, [good(number) for number in range(5)])
    world.folder.room = 0
    store, now_s = SqliteBatches(tmp_path / FILE_NAME), 1000.0

    def later() -> float:
        nonlocal now_s
        now_s += 11
        return now_s

    tried = 0

    def counted() -> None:
        nonlocal tried
        tried += 1
        if tried == 4:
            world.folder.room = None

    world.folder.writes = counted
    store.add_file(FileRecord(world.input_id, "team", "in", "batch", 1, 0.0, 9e9), BatchSettings())
    runner = BatchRunner(store, world.folder, world.answer, world.caller, BatchSettings, wall_s=later)
    await runner.add(Batch(world.batch.id, "team", "key", ENDPOINT, world.input_id, "24h", 0.0, 1.0))
    runner.start()
    ended = await until_async(
        lambda: store.batch(world.batch.id), holds=lambda batch: batch is not None and batch.ended
    )
    await runner.close()
    assert ended is not None
    assert (ended.state, ended.total, ended.failed, ended.completed) == ("expired", 5, 5, 0)
    assert not world.asked


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3000), st.booleans(), st.lists(st.booleans(), min_size=12, max_size=12))
async def test_no_more_is_written_than_there_is_room_for(
    tmp_path_factory: pytest.TempPathFactory, room: int, expires: bool, bad: list[bool]
) -> None:
    lines = [BAD if each else good(number) for number, each in enumerate(bad)]
    world = World(tmp_path_factory.mktemp("batch"), lines)
    world.quota_bytes = room
    await world.run.read_through()
    with contextlib.suppress(OutputTooLarge):
        await (world.run.expire() if expires else world.run.lines())
    world.run.close()
    size = sum(world.folder.part_bytes(world.batch.id, part) for part in (OUTPUT, ERRORS))
    assert size <= room
    assert len(world.written(OUTPUT)) + len(world.written(ERRORS)) == world.run.completed + world.run.failed
    assert room or not world.asked


class Kept:
    """Batches of two tenants, with what they were charged."""

    def __init__(self, folder: Path, settings: BatchSettings) -> None:
        self.settings = settings
        self.store = SqliteBatches(folder / FILE_NAME)
        for tenant in ("a", "b"):
            self.store.add_file(FileRecord(f"in-{tenant}", tenant, "in", "batch", 10, 0.0, 9e9), BatchSettings())
        for batch_id in ("a1", "a2", "b1"):
            batch = Batch(batch_id, batch_id[0], "key", ENDPOINT, f"in-{batch_id[0]}", "24h", 0.0, 9e9)
            self.store.add(batch, BatchSettings())

    def charge(self, batch_id: str, size_bytes: int) -> int:
        return self.store.charge(batch_id, batch_id[0], size_bytes, self.settings)

    def end(self, batch_id: str, size_bytes: int) -> None:
        output = FileRecord(f"out-{batch_id}", batch_id[0], "out", "batch_output", size_bytes, 0.0, 9e9)
        self.store.change(batch_id, lambda batch: came_to(batch, "completed", 0.0), (output,))


def test_what_batches_write_is_taken_of_their_tenants_room_and_of_everybodys(tmp_path: Path) -> None:
    kept = Kept(tmp_path, BatchSettings(bytes_of_tenant=110, files_bytes=170))
    assert kept.charge("a1", 60) == 100
    with pytest.raises(TooManyRequests):
        kept.charge("a2", 1)
    with pytest.raises(TooManyRequests):
        kept.store.room("a", kept.settings)
    with pytest.raises(TooManyRequests):
        kept.charge("b1", 101)
    with pytest.raises(Unavailable):
        kept.charge("b1", 51)
    assert kept.charge("a1", 100) == 100
    kept.end("a1", 60)
    assert kept.charge("a2", 1) == 40
    assert kept.charge("b1", 50) == 50
    with pytest.raises(TooManyRequests):
        kept.charge("a2", 41)
    kept.store.close()


def test_the_files_that_batches_may_write_are_among_those_that_a_tenant_may_have(tmp_path: Path) -> None:
    kept = Kept(tmp_path, BatchSettings(files_of_tenant=7))
    another = Batch("a3", "a", "key", ENDPOINT, "in-a", "24h", 0.0, 9e9)
    kept.store.add(another, kept.settings)
    with pytest.raises(TooManyRequests):
        kept.store.add(msgspec.structs.replace(another, id="a4"), kept.settings)
    kept.end("a1", 1)  # of two files it wrote one
    with pytest.raises(TooManyRequests):
        kept.store.add(msgspec.structs.replace(another, id="a4"), kept.settings)
    kept.end("a2", 1)
    kept.store.add(msgspec.structs.replace(another, id="a4"), kept.settings)
    kept.store.close()


def test_little_is_charged_ahead(tmp_path: Path) -> None:
    kept = Kept(tmp_path, BatchSettings())
    assert kept.charge("a1", 1) == 1 + AHEAD_BYTES
    kept.store.close()
