"""One batch, from where it was left: its lines are run some at a time, and each is written when it is answered.

A line that is written is done, and is not run again by the next process. Requests pass the same steps as others of
their tenant's, in the idle class; those that find no room are sent again until the batch's time is over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from pilotlight_gateway.batches.batch_lines import (
    BadLine,
    BatchLine,
    LineReader,
    answered_line,
    bad_line,
    line_id,
    numbers_written,
)
from pilotlight_gateway.batches.batch_records import Batch
from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_folder import FileFolder, PartWriter
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_runner import CallerAgain, Run
from pilotlight_gateway.jobs.later_metrics import BATCH_LINES
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.priorities.fair_turns import PHASE as WAITED
from pilotlight_gateway.request_steps import Place
from pilotlight_gateway.surfaces import component_path
from pilotlight_protocol.error_bodies import error_body
from pilotlight_protocol.errors import InternalError, PilotlightError, TooManyRequests, Unavailable
from pilotlight_protocol.request_priority import PRIORITY_HEADER
from pilotlight_wire.handlers import JSON, Reply, RequestContext
from pilotlight_wire.hop_headers import parse_retry_after

OUTPUT, ERRORS = "output", "errors"
CHUNK_LINES = 64
LONGEST_PAUSE_S = 300.0
LONGEST_DISK_PAUSE_S = 10.0
_log = logging.getLogger("pilotlight.gateway.batches")
_NO_ROOM = (TooManyRequests.http_status, Unavailable.http_status)


class LeftForNext(Exception):
    """The gateway ends; the next one goes on from what is written."""


class OutputTooLarge(Exception):
    """What was answered takes more bytes than the tenant may have."""


@dataclass(frozen=True, slots=True)
class Means:
    """What every batch's run stands on. `charge`: bytes that a batch may write in all where it needs so many, as
    `SqliteBatches.charge`."""

    files: FileFolder
    run: Run
    caller_again: CallerAgain
    settings: BatchSettings
    charge: Callable[[Batch, int], int]
    is_draining: Callable[[], bool] = lambda: False
    wall_s: Callable[[], float] = time.time
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep


class Width:
    """How many lines run at once: one more for each round that did not wait, half as many when one had to."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = 1.0
        self._running = 0
        self._changed = asyncio.Event()

    async def take(self) -> None:
        while self._running >= int(self._width):
            self._changed.clear()
            await self._changed.wait()
        self._running += 1

    def leave(self) -> None:
        self._running -= 1
        self._changed.set()

    def went(self, *, waited: bool) -> None:
        self._width = max(1.0, self._width / 2) if waited else min(float(self._most), self._width + 1 / self._width)
        self._changed.set()


class BatchRun:
    """`total`: lines of its input; `completed`, `failed`: of those that are written."""

    def __init__(self, batch: Batch, means: Means) -> None:
        self.batch = batch
        self.total = self.completed = self.failed = 0
        self._means = means
        self._done: set[int] = set()
        self._size_bytes = self._charged_bytes = 0
        self._writers: dict[str, PartWriter] = {}
        self._writing = threading.Lock()
        self._closed = False
        self._has_disk = asyncio.Event()

    async def read_through(self) -> None:
        """Count the lines of the input, and find those that an earlier process wrote."""
        await on_disk(self._read_through)

    def _read_through(self) -> None:
        batch, means = self.batch, self._means
        lines = means.files.lines(batch.input_file_id, means.settings.line_bytes)
        self.total = sum(1 for _ in itertools.islice(lines, means.settings.lines + 1))
        output = numbers_written(batch.id, means.files.written(batch.id, OUTPUT))
        errors = numbers_written(batch.id, means.files.written(batch.id, ERRORS))
        self.completed, self.failed = len(output), len(errors)
        self._done = output | errors
        self._size_bytes = sum(means.files.part_bytes(batch.id, part) for part in (OUTPUT, ERRORS))

    async def lines(self) -> None:
        """Run what is not done. Raises OutputTooLarge, LeftForNext, Unauthorized; cancelled, it leaves what is
        written."""
        width = Width(self._means.settings.lines_at_once)
        await self._until_there_is_disk()
        try:
            async with asyncio.TaskGroup() as group:
                async for line in self._left():
                    if self._means.is_draining():
                        break
                    if isinstance(line, BadLine):
                        await self._written(ERRORS, line.number, bad_line(self.batch.id, line))
                    else:
                        await width.take()
                        group.create_task(self._line(line, width), name=line_id(self.batch.id, line.number))
        except* (PilotlightError, OutputTooLarge) as failures:
            raise first_of(failures) from None
        if self._means.is_draining():
            raise LeftForNext

    async def expire(self) -> None:
        """Write of each line that is left that there was no time for it. Raises OutputTooLarge, Unavailable."""
        async for line in self._left():
            bad = BadLine(
                line.number, line.custom_id, "batch_expired", "the batch's time was over before this request ran"
            )
            await self._write(ERRORS, bad.number, bad_line(self.batch.id, bad))

    async def _until_there_is_disk(self) -> None:
        """What is answered and cannot be kept would be run, and billed, again."""
        while not self._means.is_draining():
            try:
                await on_disk(self._check_room)
                break
            except Unavailable as error:
                await self._means.pause(_told(self.batch.id, error))
        self._has_disk.set()

    def _check_room(self) -> None:
        with self._writing:
            self._charge(max(1, self._size_bytes))
        self._means.files.try_write(self.batch.id)

    def _charge(self, size_bytes: int) -> None:
        """Raises OutputTooLarge, Unavailable."""
        if size_bytes > self._charged_bytes:
            try:
                self._charged_bytes = self._means.charge(self.batch, size_bytes)
            except TooManyRequests as error:
                raise OutputTooLarge from error

    async def _left(self) -> AsyncIterator[BatchLine | BadLine]:
        batch, settings = self.batch, self._means.settings
        reader = LineReader(batch.endpoint, settings.line_bytes)
        lines = self._means.files.lines(batch.input_file_id, settings.line_bytes)
        while chunk := await on_disk(lambda: list(itertools.islice(lines, CHUNK_LINES))):
            for number, text in chunk:
                # A line that is done is read too: its custom id is taken.
                line = reader.read(number, text)
                if number not in self._done:
                    yield line

    async def _line(self, line: BatchLine, width: Width) -> None:
        try:
            answered = await self._answered(line, width)
            if answered is None:
                return
            status, body, request_id = answered
            written = answered_line(self.batch.id, line, status, request_id, body)
            await self._written(OUTPUT if status < 400 else ERRORS, line.number, written)
        finally:
            width.leave()

    async def _answered(self, line: BatchLine, width: Width) -> tuple[int, bytes, str] | None:
        """Status, body and request id of what it was answered, when there was room; None: not in this process."""
        batch, means = self.batch, self._means
        request = line_request(batch.endpoint, line.body)
        while True:
            await self._has_disk.wait()
            if self._means.is_draining():
                return None
            request_id = line_id(batch.id, line.number)
            context = RequestContext(request_id, dict(request.headers), request.body)
            try:
                # Where the key is not good any more, that ends the batch, and is no line's failure.
                caller = means.caller_again(batch.tenant, batch.key_id)
            except Unavailable as error:
                await means.pause(error.retry_after_s)
                continue
            try:
                answer = await means.run(caller, request, context)
                assert isinstance(answer, Reply), "a line does not stream"
            except (TooManyRequests, Unavailable) as error:
                pause_s = error.retry_after_s
            except PilotlightError as error:
                return error.http_status, error_body(error, "openai"), request_id
            except Exception:
                _log.exception("%s failed", request_id)
                return (
                    500,
                    error_body(InternalError("the request failed; the server's log has the reason"), "openai"),
                    request_id,
                )
            else:
                if answer.status not in _NO_ROOM:
                    width.went(waited=WAITED in context.server_timing)
                    return answer.status, answer.body, request_id
                pause_s = parse_retry_after(answer.headers.get("retry-after")) or 1.0
            width.went(waited=True)
            await means.pause(min(LONGEST_PAUSE_S, pause_s))

    async def _written(self, part: str, number: int, line: bytes) -> None:
        """As soon as there is a disk; until then no other line is begun."""
        while True:
            try:
                await self._write(part, number, line)
                break
            except Unavailable as error:
                self._has_disk.clear()
                if self._means.is_draining():
                    break
                await self._means.pause(_told(self.batch.id, error))
        self._has_disk.set()

    async def _write(self, part: str, number: int, line: bytes) -> None:
        appending = asyncio.ensure_future(on_disk(self._append, part, number, line))
        try:
            await asyncio.shield(appending)
        except asyncio.CancelledError:
            # The thread goes on: whether it is written is known before anybody asks what is left.
            await asyncio.wait({appending})
            raise

    def _append(self, part: str, number: int, line: bytes) -> None:
        """In a thread, which goes on where its line's task is cancelled: what is written is done, and counted, with
        it. Raises OutputTooLarge, Unavailable."""
        with self._writing:
            if self._closed or number in self._done:
                return
            self._charge(self._size_bytes + len(line))
            writer = self._writers.get(part)
            if writer is None:
                writer = self._writers[part] = self._means.files.writer(self.batch.id, part)
            writer.write(line)
            self._done.add(number)
            self._size_bytes += len(line)
            BATCH_LINES.labels(part).inc()
            if part == OUTPUT:
                self.completed += 1
            else:
                self.failed += 1

    def close(self) -> None:
        """Nothing is written any more."""
        with self._writing:
            self._closed = True
            for writer in self._writers.values():
                writer.close()


def line_request(endpoint: str, body: bytes) -> StoredRequest:
    headers = {"content-type": JSON, PRIORITY_HEADER: "idle"}
    return StoredRequest(Place("POST", endpoint, endpoint, component_path(endpoint), endpoint, None), headers, body)


def _told(batch_id: str, error: Unavailable) -> float:
    """How long it is waited for."""
    _log.error("%s waits: %s (%r)", batch_id, error.message, error.__cause__)
    return min(LONGEST_DISK_PAUSE_S, error.retry_after_s)


def first_of(failures: BaseExceptionGroup[Exception]) -> Exception:
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Exception)
    return first
