"""Runs the jobs that are queued: begins each at its turn, keeps what it is answered, puts back what found no room.

Responsible for the tasks that run jobs, and for their end. Where jobs are kept and what becomes of them is decided
elsewhere; a job passes the same steps as a request of its tenant's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from pilotlight_gateway.jobs import job_records
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_answer import JobAnswer
from pilotlight_gateway.jobs.job_queue import JobQueue
from pilotlight_gateway.jobs.job_records import Job, JobError
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.jobs.later_metrics import JOBS
from pilotlight_gateway.jobs.sqlite_jobs import Change, SqliteJobs
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.errors import (
    Forbidden,
    InternalError,
    PilotlightError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import parse_retry_after

Run = Callable[[Caller, StoredRequest, RequestContext], Awaitable[Reply | Stream]]
CallerAgain = Callable[[str, str], Caller]
"""Of a tenant and a key's id, as of now. Raises Unauthorized where the key is not good any more."""

LOOK_S = 10.0
"""How often deadlines are looked at."""

OWN_S = 1.0
LONGEST_PAUSE_S = 300.0
_log = logging.getLogger("pilotlight.gateway.jobs")


class JobRunner:
    """Between `start` and `close`."""

    def __init__(
        self,
        store: SqliteJobs,
        run: Run,
        caller_again: CallerAgain,
        settings: Callable[[], JobSettings],
        is_draining: Callable[[], bool] = lambda: False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._run = run
        self._caller_again = caller_again
        self._settings = settings
        self.is_draining = is_draining
        self._wall_s = wall_s
        self._queue = JobQueue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, JobAnswer] = {}
        self._cancelled: set[str] = set()
        self._more = asyncio.Event()
        # As long as somebody waits for it.
        self._told: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="jobs")

    async def add(self, job: Job, request: StoredRequest) -> None:
        """Raises Forbidden, TooManyRequests."""
        check_can_run_later(self._caller_again, job.tenant, job.key_id)
        await on_disk(self._store.add, job, request, self._settings())
        self._queue.put(job.tenant, job.id)
        self._more.set()

    async def cancel(self, job: Job) -> Job | None:
        """It as it is then; what has ended stays as it is."""
        self._queue.remove(job.tenant, job.id)
        settings, now_s = self._settings(), self._wall_s()

        def cancelled(old: Job) -> Job | None:
            return None if old.ended else job_records.ended(old, "cancelled", settings, now_s)

        changed = await self._change(job.id, cancelled)
        task = self._tasks.get(job.id)
        if task is not None:
            task.cancel()
        self._tell(job.id)
        return changed

    def answer(self, job_id: str) -> JobAnswer | None:
        """What is made for it now."""
        return self._answers.get(job_id)

    def news(self, job_id: str) -> asyncio.Event:
        """Set when the job begins or ends; take it before looking how the job is."""
        event = self._told.get(job_id)
        if event is None:
            event = self._told[job_id] = asyncio.Event()
        return event

    async def wait(self, news: asyncio.Event, longest_s: float = LOOK_S) -> None:
        """Until there is `news`, or something may be new: another process may run the job."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(longest_s, LOOK_S)):
                await news.wait()

    def _tell(self, job_id: str) -> None:
        event = self._told.pop(job_id, None)
        if event is not None:
            event.set()

    async def close(self) -> None:
        """What runs is taken up by the next process."""
        tasks = [*self._tasks.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await on_disk(self._store.close)

    async def _look(self) -> None:
        while not await self._owns():  # noqa: ASYNC110 - it is another process that ends
            await asyncio.sleep(OWN_S)
        looked_s = float("-inf")
        while True:
            self._more.clear()
            try:
                if self._wall_s() - looked_s > LOOK_S:
                    looked_s = self._wall_s()
                    await self._look_through(looked_s)
            except PilotlightError as error:
                _log.error("%s (%r)", error.message, error.__cause__)
            except Exception:
                _log.exception("what is kept could not be looked through")
            # What has not begun when the gateway ends is the next process's.
            while not self.is_draining() and (found := self._queue.next(self._settings(), self._wall_s())) is not None:
                tenant, job_id = found
                self._tasks[job_id] = asyncio.create_task(self._job(tenant, job_id), name=f"job {job_id}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._more.wait()

    async def _owns(self) -> bool:
        """Two gateways of one folder: the other one runs jobs while it lives."""
        try:
            return await on_disk(self._store.own)
        except Unavailable as error:
            _log.error("%s (%r)", error.message, error.__cause__)
            return False

    def _pause_s(self) -> float:
        later = self._queue.next_at_s()
        return LOOK_S if later is None else max(0.05, min(LOOK_S, later - self._wall_s()))

    async def _look_through(self, now_s: float) -> None:
        """Take up what an earlier process left and another one added; end what is too late."""
        settings = self._settings()
        for job in await on_disk(self._store.not_ended):
            if job.id in self._tasks:
                continue
            if job.state == "running":
                attempts = job.attempts

                def taken_up(old: Job) -> Job | None:
                    same = old.state == "running" and old.attempts == attempts  # noqa: B023 - called at once
                    return job_records.after_a_restart(old, settings, now_s) if same else None

                await self._change(job.id, taken_up)
            elif job.expires_s <= now_s:
                self._queue.remove(job.tenant, job.id)

                def late(old: Job) -> Job | None:
                    return job_records.too_late(old, settings, now_s) if old.state == "queued" else None

                await self._change(job.id, late)
                self._tell(job.id)
                continue
            if not self._queue.knows(job.tenant, job.id):
                self._queue.put(job.tenant, job.id)
        await on_disk(self._store.delete_expired, now_s)

    async def _change(self, job_id: str, change: Change, result: bytes | None = None) -> Job | None:
        ends: list[Job] = []

        def noted(old: Job) -> Job | None:
            new = change(old)
            if new is not None and new.ended:
                ends.append(new)
            return new

        changed = await on_disk(self._store.change, job_id, noted, result)
        for job in ends:
            JOBS.labels(job.state).inc()
        return changed

    async def _job(self, tenant: str, job_id: str) -> None:
        try:
            await self._attempt(job_id)
        except Unavailable as error:
            # It is looked through again in a while.
            _log.error("job %s: %s (%r)", job_id, error.message, error.__cause__)
        finally:
            self._tasks.pop(job_id, None)
            self._answers.pop(job_id, None)
            self._queue.left(tenant)
            self._tell(job_id)
            self._more.set()

    async def _begin(self, job_id: str) -> Job | None:
        now_s, begun = self._wall_s(), False

        def begin(old: Job) -> Job | None:
            nonlocal begun
            begun = old.state == "queued"
            return job_records.begun(old, now_s) if begun else None

        job = await self._change(job_id, begin)
        return job if begun else None

    async def _attempt(self, job_id: str) -> None:
        job = await self._begin(job_id)
        request = await on_disk(self._store.request, job_id)
        if job is None or request is None:
            return
        answer = self._answers[job_id] = JobAnswer(job.attempts)
        self._tell(job_id)
        error: PilotlightError | None = None
        try:
            caller = self._caller_again(job.tenant, job.key_id)
            context = RequestContext(f"{job.id}-{job.attempts}", dict(request.headers), request.body)
            await answer.take(await self._run(caller, request, context))
        except PilotlightError as raised:
            error = raised
        except Exception:
            _log.exception("job %s failed", job_id)
            error = InternalError("the job failed for a reason of the server's own; its log has it")
        finally:
            answer.end()
        pause_s = _pause_s(error, answer)
        if pause_s is None:
            await self._end(job, answer, error)
        else:
            await self._put_back(job, pause_s)

    async def _end(self, job: Job, answer: JobAnswer, error: PilotlightError | None) -> None:
        settings, now_s = self._settings(), self._wall_s()
        status = answer.status or None
        told = None if error is None else JobError(error.http_status, error.message, error.openai_type, error.code)
        succeeded = error is None and answer.status < 400

        def ended(old: Job) -> Job | None:
            if old.state != "running" or old.attempts != job.attempts:
                return None
            return job_records.ended(
                old,
                "succeeded" if succeeded else "failed",
                settings,
                now_s,
                status=status,
                content_type=answer.content_type,
                error=told,
            )

        await self._change(job.id, ended, answer.body if status is not None else None)

    async def _put_back(self, job: Job, pause_s: float) -> None:
        def back(old: Job) -> Job | None:
            return job_records.put_back(old) if old.state == "running" else None

        changed = await self._change(job.id, back)
        if changed is not None and changed.state == "queued":
            self._queue.put(job.tenant, job.id, self._wall_s() + min(LONGEST_PAUSE_S, pause_s))


def check_can_run_later(caller_again: CallerAgain, tenant: str, key_id: str) -> None:
    """Raises Forbidden for who would not be known again: an identity provider's token is good for minutes."""
    try:
        caller_again(tenant, key_id)
    except Unauthorized as error:
        raise Forbidden("what runs later is asked for with an API key; a token would not be valid any more") from error


def _pause_s(error: PilotlightError | None, answer: JobAnswer) -> float | None:
    """How long it is put back for, where nothing of it was made."""
    if isinstance(error, TooManyRequests | Unavailable):
        return None if answer.has_begun else error.retry_after_s
    if error is None and answer.found_no_room:
        return parse_retry_after(answer.retry_after) or 1.0
    return None
