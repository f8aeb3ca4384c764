"""Runs the batches that are accepted: each at its turn, from where it was left, to its files.

Responsible for the tasks that run batches, and for their end. What one of them does with its lines is `batch_run`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from pilotlight_gateway.batches.batch_records import Batch, BatchError, BatchState, came_to
from pilotlight_gateway.batches.batch_run import ERRORS, OUTPUT, BatchRun, LeftForNext, Means, OutputTooLarge
from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_folder import FileFolder, new_id
from pilotlight_gateway.batches.file_records import FileRecord
from pilotlight_gateway.batches.sqlite_batches import Change, SqliteBatches
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_runner import CallerAgain, Run, check_can_run_later
from pilotlight_gateway.jobs.kept_work import KeptWork
from pilotlight_protocol.errors import Conflict, Unauthorized, Unavailable

TELL_S = 1.0
"""How often the counts of a batch that runs are told."""

_TOO_LARGE = BatchError(
    "output_too_large", "the answers take more room than you have; delete files that are not needed, or split the batch"
)
_log = logging.getLogger("pilotlight.gateway.batches")


class BatchRunner:
    """Between `start` and `close`. Implements `kept_work.Kept`."""

    def __init__(
        self,
        store: SqliteBatches,
        files: FileFolder,
        run: Run,
        caller_again: CallerAgain,
        settings: Callable[[], BatchSettings],
        is_draining: Callable[[], bool] = lambda: False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._files = files
        self._run = run
        self._caller_again = caller_again
        self._settings = settings
        self._is_draining = is_draining
        self._wall_s = wall_s
        self._work = KeptWork("batches", self, settings, is_draining, wall_s)
        self._cancelling: set[str] = set()

    def start(self) -> None:
        self._work.start()

    async def add(self, batch: Batch) -> None:
        """Raises Forbidden, FileNotKept, TooManyRequests."""
        check_can_run_later(self._caller_again, batch.tenant, batch.key_id)
        await on_disk(self._store.add, batch, self._settings())
        self._work.add(batch.tenant, batch.id)

    async def cancel(self, batch: Batch) -> Batch | None:
        """It as it is then; what has ended, or nearly has, stays as it is."""
        now_s = self._wall_s()

        def cancelling(old: Batch) -> Batch | None:
            return came_to(old, "cancelling", now_s) if old.state in ("validating", "in_progress") else None

        changed = await self._change(batch.id, cancelling)
        if changed is not None and changed.state == "cancelling":
            self._cancelling.add(batch.id)
            self._work.cancel(batch.id)
        return changed

    async def close(self) -> None:
        """What runs is taken up by the next process."""
        await self._work.close()
        await on_disk(self._store.close)

    async def own(self) -> bool:
        if not await on_disk(self._store.own):
            return False
        await on_disk(self._files.sweep)
        return True

    async def look_through(self, now_s: float) -> None:
        for batch in await on_disk(self._store.not_ended):
            if not self._work.runs(batch.id) and not self._work.queue.knows(batch.tenant, batch.id):
                self._work.queue.put(batch.tenant, batch.id)
        for file_id in await on_disk(self._store.expired_files, now_s):
            with contextlib.suppress(Conflict):  # a batch reads it now
                await on_disk(self._store.delete_file, file_id)
                await on_disk(self._files.delete, file_id)
        await on_disk(self._store.delete_ended_before, now_s - self._settings().kept_s)

    async def _change(self, batch_id: str, change: Change, files: tuple[FileRecord, ...] = ()) -> Batch | None:
        return await on_disk(self._store.change, batch_id, change, files)

    async def run(self, id_: str) -> None:
        try:
            batch = await on_disk(self._store.batch, id_)
            if batch is not None and not batch.ended:
                if batch.outcome is None:
                    batch = await self._worked(batch)
                await self._published(batch)
        except LeftForNext:
            _log.info("%s is left for the next process", id_)
        finally:
            self._cancelling.discard(id_)

    async def _worked(self, batch: Batch) -> Batch:
        """With its outcome: nothing of it runs any more."""
        settings = self._settings()
        means = Means(
            self._files, self._run, self._caller_again, settings, self._charge, self._is_draining, self._wall_s
        )
        run = BatchRun(batch, means)
        try:
            outcome, errors = await self._outcome(batch, run)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if batch.id not in self._cancelling or task is None:
                raise
            task.uncancel()
            outcome, errors = "cancelled", ()
        finally:
            run.close()
        now_s, ids = self._wall_s(), (new_id("file-"), new_id("file-"))

        def ending(old: Batch) -> Batch | None:
            if old.outcome is not None:
                return None
            state: BatchState = "cancelling" if outcome == "cancelled" else "finalizing"
            counts = {"total": run.total, "completed": run.completed, "failed": run.failed}
            files = {"output_file_id": ids[0], "error_file_id": ids[1]}
            return came_to(old, state, now_s, outcome=outcome, errors=errors, **counts, **files)

        changed = await self._change(batch.id, ending)
        assert changed is not None
        return changed

    async def _outcome(self, batch: Batch, run: BatchRun) -> tuple[BatchState, tuple[BatchError, ...]]:
        if batch.state == "cancelling":
            return "cancelled", ()
        await run.read_through()
        lines = self._settings().lines
        if not run.total:
            return "failed", (BatchError("empty_file", "the input file has no line"),)
        if run.total > lines:
            return "failed", (BatchError("too_many_lines", f"the input file has more than {lines} lines"),)
        now_s = self._wall_s()

        def begins(old: Batch) -> Batch | None:
            return came_to(old, "in_progress", now_s, total=run.total) if old.state == "validating" else None

        await self._change(batch.id, begins)
        if now_s >= batch.expires_s:
            return await self._expired(run)
        telling = asyncio.create_task(self._tell(batch.id, run))
        try:
            async with asyncio.timeout(max(0.0, batch.expires_s - now_s)):
                await run.lines()
            return "completed", ()
        except TimeoutError:
            return await self._expired(run)
        except OutputTooLarge:
            return "failed", (_TOO_LARGE,)
        except Unauthorized as error:
            return "failed", (BatchError("invalid_api_key", error.message),)
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def _expired(self, run: BatchRun) -> tuple[BatchState, tuple[BatchError, ...]]:
        try:
            await run.expire()
        except OutputTooLarge:
            return "expired", (_TOO_LARGE,)
        return "expired", ()

    def _charge(self, batch: Batch, size_bytes: int) -> int:
        return self._store.charge(batch.id, batch.tenant, size_bytes, self._settings())

    async def _tell(self, batch_id: str, run: BatchRun) -> None:
        told = (0, 0)
        while True:
            await asyncio.sleep(TELL_S)
            counts = run.completed, run.failed
            if counts != told:
                told = counts
                with contextlib.suppress(Unavailable):
                    await self._change(batch_id, lambda old: _counted(old, *counts))  # noqa: B023 - called at once

    async def _published(self, batch: Batch) -> None:
        """Its files are there, and it has ended. Done again by the next process where this one ends before that."""
        assert batch.outcome is not None
        now_s, kept_s = self._wall_s(), self._settings().kept_s
        files = []
        for part, file_id in ((OUTPUT, batch.output_file_id), (ERRORS, batch.error_file_id)):
            assert file_id is not None
            size = await on_disk(self._files.publish, batch.id, part, file_id)
            if size:
                name = f"{batch.id}_{part}.jsonl"
                files.append(FileRecord(file_id, batch.tenant, name, "batch_output", size, now_s, now_s + kept_s))
        there = {file.id for file in files}

        def over(old: Batch) -> Batch | None:
            assert old.outcome is not None
            output = old.output_file_id if old.output_file_id in there else None
            errors = old.error_file_id if old.error_file_id in there else None
            return came_to(old, old.outcome, now_s, output_file_id=output, error_file_id=errors)

        await self._change(batch.id, over, tuple(files))


def _counted(batch: Batch, completed: int, failed: int) -> Batch | None:
    if batch.outcome is not None or batch.ended:
        return None
    return msgspec.structs.replace(batch, completed=completed, failed=failed)
