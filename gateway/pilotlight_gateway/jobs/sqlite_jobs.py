"""Jobs in one SQLite file: records, what was asked until it is answered, and results until they expire. Blocking.

Bounds hold inside the transaction that adds. Must not: decide what becomes of a job (`job_records`), or run one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from pilotlight_gateway.jobs.job_records import Job
from pilotlight_gateway.jobs.job_settings import JobSettings
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.sqlite_file import SqliteFile
from pilotlight_protocol.errors import InternalError, TooManyRequests

FILE_NAME = "jobs.sqlite3"
RECORD_BYTES = 1024
FULL_RETRY_S = 60.0
_MIGRATIONS = (
    """
    CREATE TABLE jobs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, ended INTEGER NOT NULL, created_s REAL NOT NULL,
                       expires_s REAL NOT NULL, bytes INTEGER NOT NULL, record BLOB NOT NULL, request BLOB,
                       result BLOB);
    CREATE INDEX jobs_tenant ON jobs (tenant, created_s);
    CREATE INDEX jobs_open ON jobs (ended, created_s);
    CREATE INDEX jobs_sizes ON jobs (tenant, bytes);
    CREATE INDEX jobs_expires ON jobs (expires_s);
    """,
)

Change = Callable[[Job], Job | None]
"""What becomes of a job; None: nothing."""


class UnreadableRequest(InternalError):
    pass


class SqliteJobs:
    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _MIGRATIONS, "jobs", erases=True)

    def add(self, job: Job, request: StoredRequest, settings: JobSettings) -> None:
        """Raises TooManyRequests."""
        asked = msgspec.msgpack.encode(request)
        size = len(asked) + RECORD_BYTES
        with self._file.transaction() as connection:
            number, taken = _sums(connection, "WHERE tenant = ?", job.tenant)
            if number >= settings.kept_of_tenant or taken + size > settings.bytes_of_tenant:
                raise TooManyRequests(
                    "as many jobs are kept for you as may be, or as many bytes; delete some that have ended",
                    retry_after_s=FULL_RETRY_S,
                )
            number, taken = _sums(connection, "")
            if number >= settings.kept or taken + size > settings.kept_bytes:
                raise TooManyRequests("no more jobs can be kept at the moment; try again", retry_after_s=FULL_RETRY_S)
            row = (job.id, job.tenant, job.created_s, job.expires_s, size, msgspec.json.encode(job), asked)
            connection.execute("INSERT INTO jobs VALUES (?, ?, 0, ?, ?, ?, ?, ?, NULL)", row)

    def job(self, job_id: str) -> Job | None:
        with self._file.transaction("DEFERRED") as connection:
            return _job(connection, job_id)

    def request(self, job_id: str) -> StoredRequest | None:
        """Raises UnreadableRequest."""
        with self._file.transaction("DEFERRED") as connection:
            found = connection.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if found is None or found[0] is None:
            return None
        try:
            return msgspec.msgpack.decode(found[0], type=StoredRequest)
        except msgspec.MsgspecError as error:
            raise UnreadableRequest(
                "the job's request was kept by another version of the gateway, and cannot be read; send it again"
            ) from error

    def result(self, job_id: str) -> bytes | None:
        with self._file.transaction("DEFERRED") as connection:
            found = connection.execute("SELECT result FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if found is None else found[0]

    def of_tenant(self, tenant: str, after: str | None, limit: int) -> list[Job]:
        """The newest first, those behind `after`."""
        with self._file.transaction("DEFERRED") as connection:
            last = None if after is None else _job(connection, after)
            if last is None or last.tenant != tenant:
                rows = connection.execute(
                    "SELECT record FROM jobs WHERE tenant = ? ORDER BY created_s DESC, id DESC LIMIT ?", (tenant, limit)
                )
            else:
                rows = connection.execute(
                    "SELECT record FROM jobs WHERE tenant = ? AND (created_s, id) < (?, ?)"
                    " ORDER BY created_s DESC, id DESC LIMIT ?",
                    (tenant, last.created_s, last.id, limit),
                )
            return [msgspec.json.decode(record, type=Job) for (record,) in rows.fetchall()]

    def not_ended(self) -> list[Job]:
        """The oldest first."""
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute("SELECT record FROM jobs WHERE ended = 0 ORDER BY created_s, id").fetchall()
        return [msgspec.json.decode(record, type=Job) for (record,) in rows]

    def change(self, job_id: str, change: Change, result: bytes | None = None) -> Job | None:
        """The job as it is then. What was asked is forgotten with the job's end; `result` is kept then."""
        with self._file.transaction() as connection:
            job = _job(connection, job_id)
            changed = None if job is None else change(job)
            if changed is None:
                return job
            record = (changed.ended, changed.expires_s, msgspec.json.encode(changed), job_id)
            connection.execute("UPDATE jobs SET ended = ?, expires_s = ?, record = ? WHERE id = ?", record)
            if changed.ended:
                size = RECORD_BYTES + len(result or b"")
                connection.execute(
                    "UPDATE jobs SET request = NULL, result = ?, bytes = ? WHERE id = ?", (result, size, job_id)
                )
            return changed

    def delete(self, job_id: str) -> None:
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def delete_expired(self, now_s: float) -> None:
        """Those that had ended."""
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM jobs WHERE ended = 1 AND expires_s <= ?", (now_s,))

    def own(self) -> bool:
        """Whether this process is the one that runs jobs."""
        return self._file.own()

    def close(self) -> None:
        self._file.close()


def _sums(connection: sqlite3.Connection, where: str, *values: str) -> tuple[int, int]:
    found = connection.execute(f"SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM jobs {where}", values).fetchone()  # noqa: S608
    return int(found[0]), int(found[1])


def _job(connection: sqlite3.Connection, job_id: str) -> Job | None:
    found = connection.execute("SELECT record FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return None if found is None else msgspec.json.decode(found[0], type=Job)
