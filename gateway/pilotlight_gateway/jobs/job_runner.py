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
from pilotlight_gateway.jobs.job_records import Job, JobError
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.jobs.kept_work import LOOK_S, KeptWork
from pilotlight_gateway.jobs.later_metrics import JOBS
from pilotlight_gateway.jobs.sqlite_jobs import Change, SqliteJobs, UnreadableRequest
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

LONGEST_PAUSE_S = 300.0
_log = logging.getLogger("pilotlight.gateway.jobs")


class JobRunner:
    """Between `start` and `close`. Implements `kept_work.Kept`."""

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
        self._work = KeptWork("jobs", self, settings, is_draining, wall_s)
        self._answers: dict[str, JobAnswer] = {}
        self._cancelled: set[str] = set()
        # As long as somebody waits for it.
        self._told: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def start(self) -> None:
        self._work.start()

    async def add(self, job: Job, request: StoredRequest) -> None:
        """Raises Forbidden, TooManyRequests."""
        check_can_run_later(self._caller_again, job.tenant, job.key_id)
        await on_disk(self._store.add, job, request, self._settings())
        self._work.add(job.tenant, job.id)

    async def cancel(self, job: Job) -> Job | None:
        """It as it is then; what has ended stays as it is."""
        self._work.queue.remove(job.tenant, job.id)
        settings, now_s = self._settings(), self._wall_s()

        def cancelled(old: Job) -> Job | None:
            return None if old.ended else job_records.ended(old, "cancelled", settings, now_s)

        changed = await self._change(job.id, cancelled)
        self._work.cancel(job.id)
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
        await self._work.close()
        await on_disk(self._store.close)

    async def own(self) -> bool:
        return await on_disk(self._store.own)

    async def look_through(self, now_s: float) -> None:
        settings = self._settings()
        for job in await on_disk(self._store.not_ended):
            if self._work.runs(job.id):
                continue
            if job.state == "running":
                attempts = job.attempts

                def taken_up(old: Job) -> Job | None:
                    same = old.state == "running" and old.attempts == attempts  # noqa: B023 - called at once
                    return job_records.after_a_restart(old, settings, now_s) if same else None

                await self._change(job.id, taken_up)
            elif job.expires_s <= now_s:
                self._work.queue.remove(job.tenant, job.id)

                def late(old: Job) -> Job | None:
                    return job_records.too_late(old, settings, now_s) if old.state == "queued" else None

                await self._change(job.id, late)
                self._tell(job.id)
                continue
            if not self._work.queue.knows(job.tenant, job.id):
                self._work.queue.put(job.tenant, job.id)
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

    async def run(self, id_: str) -> None:
        try:
            await self._attempt(id_)
        finally:
            self._answers.pop(id_, None)
            self._tell(id_)

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
        if job is None:
            return
        try:
            request = await on_disk(self._store.request, job_id)
        except UnreadableRequest as unreadable:
            await self._end(job, JobAnswer(job.attempts), unreadable)
            return
        if request is None:
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
            self._work.queue.put(job.tenant, job.id, self._wall_s() + min(LONGEST_PAUSE_S, pause_s))


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
