"""Records of files and batches in one SQLite file. Blocking. Bounds hold inside the transaction that adds.

Must not: decide what becomes of a batch (`batch_records`), or know where the bytes of a file are (`file_folder`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotlight_gateway.batches.batch_records import Batch
from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_records import FileNotKept, FileRecord, Purpose
from pilotlight_gateway.sqlite_file import SqliteFile
from pilotlight_protocol.errors import Conflict, TooManyRequests, Unavailable

FILE_NAME = "batches.sqlite3"
FULL_RETRY_S = 60.0
FILES_OF_BATCH = 2
"""That it may write: its output, and its errors."""
AHEAD_BYTES = 1 << 20
"""What a batch is charged beyond what it writes now: one transaction for many lines."""

_FULL = "as many files are kept as may be, or as many bytes; delete some that are not needed"
_MIGRATIONS = (
    """
    CREATE TABLE files (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, purpose TEXT NOT NULL, created_s REAL NOT NULL,
                        expires_s REAL NOT NULL, bytes INTEGER NOT NULL, record BLOB NOT NULL);
    CREATE INDEX files_tenant ON files (tenant, created_s);
    CREATE INDEX files_sizes ON files (tenant, bytes);
    CREATE TABLE batches (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, ended INTEGER NOT NULL, created_s REAL NOT NULL,
                          input TEXT NOT NULL, record BLOB NOT NULL);
    CREATE INDEX batches_tenant ON batches (tenant, created_s);
    CREATE INDEX batches_open ON batches (ended, input);
    """,
    """
    ALTER TABLE batches ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
    """,
)
Change = Callable[[Batch], Batch | None]
_Record = TypeVar("_Record", FileRecord, Batch)


class SqliteBatches:
    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _MIGRATIONS, "files and batches", erases=True)

    def own(self) -> bool:
        """Whether this process is the one that runs batches."""
        return self._file.own()

    # Files

    def room(self, tenant: str, settings: BatchSettings) -> int:
        """Bytes that one more file of the tenant may have. Raises TooManyRequests where there is room for none."""
        with self._file.transaction("DEFERRED") as connection:
            return _room(connection, tenant, settings)

    def add_file(self, file: FileRecord, settings: BatchSettings) -> None:
        """Raises TooManyRequests."""
        with self._file.transaction() as connection:
            if file.purpose == "batch" and _room(connection, file.tenant, settings) < file.size_bytes:
                raise _full()
            _put_file(connection, file)

    def file(self, file_id: str) -> FileRecord | None:
        with self._file.transaction("DEFERRED") as connection:
            return _one(connection, "files", file_id, FileRecord)

    def files(
        self, tenant: str, purpose: Purpose | None, after: str | None, limit: int, newest_first: bool
    ) -> list[FileRecord]:
        with self._file.transaction("DEFERRED") as connection:
            return _page(connection, "files", FileRecord, tenant, after, limit, newest_first, purpose)

    def delete_file(self, file_id: str) -> None:
        """Raises Conflict for one that a batch reads."""
        with self._file.transaction() as connection:
            used = connection.execute("SELECT 1 FROM batches WHERE ended = 0 AND input = ?", (file_id,)).fetchone()
            if used is not None:
                raise Conflict("a batch that has not ended reads this file; cancel the batch first")
            connection.execute("DELETE FROM files WHERE id = ?", (file_id,))

    def expired_files(self, now_s: float) -> list[str]:
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute(
                "SELECT id FROM files WHERE expires_s <= ? AND id NOT IN (SELECT input FROM batches WHERE ended = 0)",
                (now_s,),
            ).fetchall()
        return [file_id for (file_id,) in rows]

    # Batches

    def add(self, batch: Batch, settings: BatchSettings) -> None:
        """Raises FileNotKept, TooManyRequests."""
        with self._file.transaction() as connection:
            if _one(connection, "files", batch.input_file_id, FileRecord) is None:
                raise FileNotKept("the input file has been deleted")
            (number,) = connection.execute(
                "SELECT COUNT(*) FROM batches WHERE tenant = ? AND ended = 0", (batch.tenant,)
            ).fetchone()
            if number >= settings.batches_of_tenant:
                raise TooManyRequests(
                    f"{number} of your batches have not ended, as many as may be; wait for one",
                    retry_after_s=FULL_RETRY_S,
                )
            if _number_of_files(connection, batch.tenant) + (number + 1) * FILES_OF_BATCH > settings.files_of_tenant:
                raise _full()
            row = (batch.id, batch.tenant, batch.created_s, batch.input_file_id, msgspec.json.encode(batch))
            connection.execute("INSERT INTO batches VALUES (?, ?, 0, ?, ?, ?, 0)", row)

    def batch(self, batch_id: str) -> Batch | None:
        with self._file.transaction("DEFERRED") as connection:
            return _one(connection, "batches", batch_id, Batch)

    def batches(self, tenant: str, after: str | None, limit: int) -> list[Batch]:
        with self._file.transaction("DEFERRED") as connection:
            return _page(connection, "batches", Batch, tenant, after, limit, True, None)

    def not_ended(self) -> list[Batch]:
        """The oldest first."""
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute("SELECT record FROM batches WHERE ended = 0 ORDER BY created_s, id").fetchall()
        return [msgspec.json.decode(record, type=Batch) for (record,) in rows]

    def change(self, batch_id: str, change: Change, files: tuple[FileRecord, ...] = ()) -> Batch | None:
        """The batch as it is then, None where there is none; `files` are added with a change."""
        with self._file.transaction() as connection:
            batch = _one(connection, "batches", batch_id, Batch)
            changed = None if batch is None else change(batch)
            if changed is None:
                return batch
            row = (changed.ended, msgspec.json.encode(changed), batch_id)
            connection.execute("UPDATE batches SET ended = ?, record = ? WHERE id = ?", row)
            for file in files:
                _put_file(connection, file)
            return changed

    def charge(self, batch_id: str, tenant: str, size_bytes: int, settings: BatchSettings) -> int:
        """How many bytes the batch may write in all: at least `size_bytes`, and some more; they are taken from now on.
        Raises TooManyRequests where its tenant has no room for them, Unavailable where nobody has."""
        with self._file.transaction() as connection:
            own, everybodys = _left(connection, tenant, settings, batch_id)
            if own < size_bytes:
                raise _full()
            if everybodys < size_bytes:
                raise Unavailable(_FULL, retry_after_s=FULL_RETRY_S)
            charged = min(size_bytes + AHEAD_BYTES, own, everybodys)
            connection.execute("UPDATE batches SET written = MAX(written, ?) WHERE id = ?", (charged, batch_id))
            return charged

    def delete_ended_before(self, created_s: float) -> None:
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM batches WHERE ended = 1 AND created_s <= ?", (created_s,))

    def close(self) -> None:
        self._file.close()


def _room(connection: sqlite3.Connection, tenant: str, settings: BatchSettings) -> int:
    room = min(_left(connection, tenant, settings))
    if _number_of_files(connection, tenant) >= settings.files_of_tenant or room <= 0:
        raise _full()
    return int(min(room, settings.file_bytes))


def _number_of_files(connection: sqlite3.Connection, tenant: str) -> int:
    (number,) = connection.execute("SELECT COUNT(*) FROM files WHERE tenant = ?", (tenant,)).fetchone()
    return int(number)


def _left(connection: sqlite3.Connection, tenant: str, settings: BatchSettings, but_of: str = "") -> tuple[int, int]:
    """Bytes that the tenant may keep beside what it has, and that all may. What batches write, `but_of` this one, is
    kept too."""
    taken = "SELECT COALESCE(SUM(bytes), 0) FROM files"
    written = "SELECT COALESCE(SUM(written), 0) FROM batches WHERE ended = 0 AND id != ?"
    (all_taken,) = connection.execute(f"SELECT ({taken}) + ({written})", (but_of,)).fetchone()
    (own_taken,) = connection.execute(
        f"SELECT ({taken} WHERE tenant = ?) + ({written} AND tenant = ?)", (tenant, but_of, tenant)
    ).fetchone()
    return settings.bytes_of_tenant - own_taken, settings.files_bytes - all_taken


def _full() -> TooManyRequests:
    return TooManyRequests(_FULL, retry_after_s=FULL_RETRY_S)


def _put_file(connection: sqlite3.Connection, file: FileRecord) -> None:
    row = (
        file.id,
        file.tenant,
        file.purpose,
        file.created_s,
        file.expires_s,
        file.size_bytes,
        msgspec.json.encode(file),
    )
    connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _one(connection: sqlite3.Connection, table: str, record_id: str, kind: type[_Record]) -> _Record | None:
    found = connection.execute(f"SELECT record FROM {table} WHERE id = ?", (record_id,)).fetchone()  # noqa: S608
    return None if found is None else msgspec.json.decode(found[0], type=kind)


def _page(
    connection: sqlite3.Connection,
    table: str,
    kind: type[_Record],
    tenant: str,
    after: str | None,
    limit: int,
    newest_first: bool,
    purpose: str | None,
) -> list[_Record]:
    where = "tenant = ?"
    values: tuple[str, ...] = (tenant,)
    if purpose is not None:
        where, values = f"{where} AND purpose = ?", (*values, purpose)
    last = None if after is None else _one(connection, table, after, kind)
    order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    if last is not None and last.tenant == tenant:
        where = f"{where} AND (created_s, id) {beyond} (SELECT created_s, id FROM {table} WHERE id = ?)"  # noqa: S608
        values = (*values, last.id)
    rows = connection.execute(
        f"SELECT record FROM {table} WHERE {where} ORDER BY created_s {order}, id {order} LIMIT ?",  # noqa: S608
        (*values, limit),
    ).fetchall()
    return [msgspec.json.decode(record, type=kind) for (record,) in rows]
