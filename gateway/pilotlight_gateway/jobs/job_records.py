"""What is kept of a job, what state it is in, and how it is shown to its tenant. Pure.

queued ──begin──▶ running ──▶ succeeded | failed
  ▲                 │  │
  └── no room, cut ─┘  └──▶ cancelled, from queued too
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_protocol.errors import ModelNotFound

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


class JobNotFound(ModelNotFound):
    code = "job_not_found"


class JobError(msgspec.Struct, frozen=True):
    """`status`: what its request would have been answered."""

    status: int
    message: str
    type: str = "server_error"
    code: str | None = None


class Job(msgspec.Struct, frozen=True):
    """`key_id`: of the key that asked; it must still be good when the job runs. `expires_s`: of one that has not ended
    its deadline, of one that has the time until which it is kept. `attempts`: how often it was begun and may have made
    tokens. `response_status`, `content_type`: of its result."""

    id: str
    tenant: str
    key_id: str
    path: str
    model: str
    created_s: float
    expires_s: float
    state: JobState = "queued"
    attempts: int = 0
    started_s: float | None = None
    ended_s: float | None = None
    response_status: int | None = None
    content_type: str = ""
    error: JobError | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def begun(job: Job, now_s: float) -> Job:
    return msgspec.structs.replace(job, state="running", attempts=job.attempts + 1, started_s=now_s)


def put_back(job: Job) -> Job:
    """There was no room for it: nothing was made, and that was no attempt."""
    return msgspec.structs.replace(job, state="queued", attempts=max(0, job.attempts - 1), started_s=None)


def ended(
    job: Job,
    state: JobState,
    settings: JobSettings,
    now_s: float,
    *,
    status: int | None = None,
    content_type: str = "",
    error: JobError | None = None,
) -> Job:
    return msgspec.structs.replace(
        job,
        state=state,
        ended_s=now_s,
        expires_s=now_s + settings.result_s,
        response_status=status,
        content_type=content_type,
        error=error,
    )


def after_a_restart(job: Job, settings: JobSettings, now_s: float) -> Job:
    """What becomes of one that ran when its gateway ended."""
    if job.attempts < settings.attempts:
        return msgspec.structs.replace(job, state="queued", started_s=None)
    error = JobError(503, f"the gateway ended while the job ran, {job.attempts} times; send the request again")
    return ended(job, "failed", settings, now_s, error=error)


def too_late(job: Job, settings: JobSettings, now_s: float) -> Job:
    error = JobError(504, "there was no room for the job before its deadline; send the request again", "timeout_error")
    return ended(job, "failed", settings, now_s, error=error)


class JobResponse(msgspec.Struct, frozen=True):
    """`body`: its JSON, or its text; null where the job is only listed."""

    status_code: int
    content_type: str
    body: Any


class ShownJob(msgspec.Struct, frozen=True):
    """Times are seconds since the epoch."""

    id: str
    object: Literal["job"]
    status: JobState
    path: str
    model: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    expires_at: int
    attempts: int
    response: JobResponse | None
    error: JobError | None


class JobList(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: list[ShownJob]
    has_more: bool


class DeletedJob(msgspec.Struct, frozen=True):
    id: str
    object: Literal["job"]
    deleted: bool


def shown(job: Job, result: bytes | None) -> ShownJob:
    """`result`: where it has one."""
    return ShownJob(
        id=job.id,
        object="job",
        status=job.state,
        path=job.path,
        model=job.model,
        created_at=int(job.created_s),
        started_at=_seconds(job.started_s),
        ended_at=_seconds(job.ended_s),
        expires_at=int(job.expires_s),
        attempts=job.attempts,
        response=None if job.response_status is None else _response(job, job.response_status, result),
        error=job.error,
    )


def _response(job: Job, status: int, result: bytes | None) -> JobResponse:
    return JobResponse(status, job.content_type, None if result is None else json_or_text(result))


def json_or_text(body: bytes) -> Any:
    """As it is shown inside of other JSON, on one line."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return msgspec.Raw(b" ".join(body.splitlines()) if b"\n" in body or b"\r" in body else body)


def _seconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)
