"""Jobs over HTTP, each tenant's own.

    any generating route with Prefer: respond-async     202 and Location
    GET     /v1/jobs            GET     /v1/jobs/{job}            DELETE  /v1/jobs/{job}
    GET     /v1/jobs/{job}/events                                 POST    /v1/jobs/{job}/cancel

Another tenant's job is told from none in nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_answer import EVENT_STREAM, JobAnswer, as_event, events_of, position_in
from pilotlight_gateway.jobs.job_records import DeletedJob, Job, JobList, JobNotFound, shown
from pilotlight_gateway.jobs.job_runner import JobRunner
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.jobs.prefer import LaterAnswer, later_answer
from pilotlight_gateway.jobs.sqlite_jobs import SqliteJobs
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.request_steps import Caller, GatewayRequest, Place
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.errors import Conflict, InvalidInput, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

MOST_LISTED = 100
_PATH = "/v1/jobs"


class Jobs:
    """Implements `request_steps.Later`. `routed_by`: the headers that the rules of routes look at."""

    def __init__(
        self,
        store: SqliteJobs,
        runner: JobRunner,
        settings: Callable[[], JobSettings],
        wall_s: Callable[[], float],
        routed_by: Callable[[], frozenset[str]],
    ) -> None:
        self._store = store
        self._runner = runner
        self._settings = settings
        self._wall_s = wall_s
        self._routed_by = routed_by

    def routes(self) -> list[OwnRoute]:
        job = f"{_PATH}/{{job}}"
        return [
            OwnRoute("GET", _PATH, self._list),
            OwnRoute("GET", job, self._get),
            OwnRoute("DELETE", job, self._delete),
            OwnRoute("GET", f"{job}/events", self._events),
            OwnRoute("POST", f"{job}/cancel", self._cancel),
        ]

    def wanted(self, context: RequestContext, place: Place) -> bool:
        return _later(context) is not None and makes_tokens(place.method, place.component_path)

    async def accept(self, request: GatewayRequest, place: Place) -> Reply:
        context = request.context
        later = _later(context)
        assert later is not None, "wanted"
        now_s = self._wall_s()
        job = Job(
            f"job_{secrets.token_hex(16)}",
            request.caller.tenant,
            request.caller.key_id,
            place.path,
            request.asked.model or "",
            now_s,
            now_s + self._settings().deadline_s,
        )
        await self._runner.add(job, StoredRequest.of(place, context, self._routed_by()))
        answered = await self._waited(job, later)
        if answered is not None:
            return answered
        headers = {"location": f"{_PATH}/{job.id}", "preference-applied": later.applied}
        return Reply(msgspec.json.encode(shown(job, None)), 202, headers=headers)

    async def _waited(self, job: Job, later: LaterAnswer) -> Reply | None:
        """Its answer, where it comes in the time that the client waits."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + later.wait_s
        while (left_s := ends_s - loop.time()) > 0:
            news = self._runner.news(job.id)
            found = await on_disk(self._store.job, job.id)
            if found is None or not found.ended:
                await self._runner.wait(news, left_s)
                continue
            if found.response_status is None:
                return None
            body = await on_disk(self._store.result, job.id)
            headers = {"content-location": f"{_PATH}/{job.id}", "preference-applied": f"wait={later.wait_s:g}"}
            return Reply(body or b"", found.response_status, found.content_type, headers)
        return None

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        query = context.query
        limit = listed(query.get("limit"))
        jobs = await on_disk(self._store.of_tenant, caller.tenant, query.get("after"), limit + 1)
        data = [shown(job, None) for job in jobs[:limit]]
        return _json(JobList("list", data, len(jobs) > limit))

    async def _get(self, context: RequestContext, caller: Caller) -> Reply:
        job = await self._own(context, caller)
        result = await on_disk(self._store.result, job.id) if job.ended else None
        return _json(shown(job, result))

    async def _cancel(self, context: RequestContext, caller: Caller) -> Reply:
        job = await self._runner.cancel(await self._own(context, caller))
        return _json(shown(_there(job), None))

    async def _delete(self, context: RequestContext, caller: Caller) -> Reply:
        """Cancels it, and forgets it."""
        job = await self._own(context, caller)
        await self._runner.cancel(job)
        await on_disk(self._store.delete, job.id)
        return _json(DeletedJob(job.id, "job", deleted=True))

    async def _events(self, context: RequestContext, caller: Caller) -> Stream:
        job = await self._own(context, caller)
        given = context.headers.get("last-event-id")
        if given is not None:
            if job.state == "queued":
                raise Conflict("the job has not begun, or will begin again; read its events from the first one")
            position_in(given, job.attempts)
        return Stream(self._followed(job, given))

    async def _followed(self, job: Job, given: str | None) -> AsyncIterator[bytes]:
        yield b": %b\n\n" % job.state.encode()
        attempt, sent = None, 0
        while not job.ended:
            news, answer = self._runner.news(job.id), self._runner.answer(job.id)
            if answer is not None and answer.attempt != attempt:
                attempt = answer.attempt
                async for event in _live(answer, position_in(given, attempt)):
                    sent += 1
                    yield event
            else:
                await self._runner.wait(news)
                if self._runner.is_draining():
                    raise Unavailable("this server is shutting down; read the rest with Last-Event-ID in a moment")
                yield b": waiting\n\n"
            job = _there(await on_disk(self._store.job, job.id))
            if sent and (job.state == "queued" or job.attempts != attempt):
                raise Conflict("the job has to begin again; read its events from the first one")
        if not sent and job.response_status is not None:
            body = await on_disk(self._store.result, job.id) or b""
            for event in _kept(job, body)[position_in(given, job.attempts) :]:
                yield event
        if job.error is not None:
            yield as_event(job.attempts, 0, msgspec.json.encode({"error": job.error}), "error")
        elif job.state == "cancelled":
            yield as_event(job.attempts, 0, b'{"error":{"status":499,"message":"the job was cancelled"}}', "error")

    async def _own(self, context: RequestContext, caller: Caller) -> Job:
        job = await on_disk(self._store.job, context.path_parameters["job"])
        return _there(job if job is not None and job.tenant == caller.tenant else None)


def _later(context: RequestContext) -> LaterAnswer | None:
    return later_answer(context.headers.get("prefer", ""))


def _there(job: Job | None) -> Job:
    if job is None:
        raise JobNotFound("there is no such job: GET /v1/jobs lists yours")
    return job


async def _live(answer: JobAnswer, position: int) -> AsyncIterator[bytes]:
    number = 0
    while (event := await answer.event(number)) is not None:
        number += 1
        if number > position:
            yield event if answer.content_type.startswith(EVENT_STREAM) else as_event(answer.attempt, number, event)


def _kept(job: Job, body: bytes) -> list[bytes]:
    if job.content_type.startswith(EVENT_STREAM):
        return events_of(body)
    return [as_event(job.attempts, 1, body)]


def listed(limit: str | None, most: int = MOST_LISTED) -> int:
    """How many of a list are asked for. Raises InvalidInput."""
    if limit is None:
        return 20
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= most):
        raise InvalidInput(f"limit must be from 1 to {most}", param="limit")
    return int(limit)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(msgspec.json.encode(value), status)
