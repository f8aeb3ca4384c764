"""Tenants and keys in one SQLite file, which several processes may have open: gateways, and the command line.

WAL, so that readers never wait for a writer; the file is its owner's alone. Must not: decide anything.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantRecord
from pilotlight_gateway.tenants.tenant_store import Change, Changes, Decide
from pilotlight_protocol.errors import Unavailable

FILE_NAME = "tenants.sqlite3"
BUSY_TIMEOUT_S = 5.0
_MIGRATIONS = (
    """
    CREATE TABLE counter (number INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    CREATE TABLE tenants (name TEXT PRIMARY KEY, record BLOB NOT NULL, changed INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE keys (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, record BLOB NOT NULL,
                       changed INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX tenants_changed ON tenants (changed);
    CREATE INDEX keys_changed ON keys (changed);
    CREATE INDEX keys_tenant ON keys (tenant);
    """,
)
"""Each brings `user_version` one further."""


class SqliteTenants:
    """Implements TenantStore."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            # A key that was shown must be there after the machine lost its power, too.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._migrate()

    def changes(self, after: int) -> Changes | None:
        with self._transaction("DEFERRED") as connection:
            upto = _counter(connection)
            if upto == after:
                return None
            tenants = connection.execute("SELECT record FROM tenants WHERE changed > ?", (after,)).fetchall()
            keys = connection.execute("SELECT record FROM keys WHERE changed > ?", (after,)).fetchall()
        return Changes(upto, _tenants(tenants), _keys(keys))

    def tenants(self) -> list[TenantRecord]:
        with self._transaction("DEFERRED") as connection:
            return _tenants(connection.execute("SELECT record FROM tenants ORDER BY name").fetchall())

    def keys(self, tenant: str) -> list[KeyRecord]:
        with self._transaction("DEFERRED") as connection:
            return _keys_of(connection, tenant)

    def change(self, tenant: str, decide: Decide) -> Change:
        with self._transaction("IMMEDIATE") as connection:
            found = connection.execute("SELECT record FROM tenants WHERE name = ?", (tenant,)).fetchall()
            change = decide(next(iter(_tenants(found)), None), _keys_of(connection, tenant))
            number = _counter(connection) + 1
            connection.execute("UPDATE counter SET number = ?", (number,))
            if change.tenant is not None:
                row = (change.tenant.name, msgspec.json.encode(change.tenant), number)
                connection.execute("INSERT OR REPLACE INTO tenants VALUES (?, ?, ?)", row)
            for key in change.keys:
                record = (key.id, key.tenant, msgspec.json.encode(key), number)
                connection.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", record)
        return change

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        with self._transaction("IMMEDIATE") as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise Unavailable("the file of tenants was written by a newer version of Pilotlight; run that one")
            for script in _MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated():
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _counter(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT number FROM counter").fetchone()
    return int(number)


def _tenants(rows: list[tuple[bytes]]) -> list[TenantRecord]:
    return [msgspec.json.decode(record, type=TenantRecord) for (record,) in rows]


def _keys(rows: list[tuple[bytes]]) -> list[KeyRecord]:
    return [msgspec.json.decode(record, type=KeyRecord) for (record,) in rows]


def _keys_of(connection: sqlite3.Connection, tenant: str) -> list[KeyRecord]:
    found = connection.execute("SELECT record FROM keys WHERE tenant = ?", (tenant,)).fetchall()
    return sorted(_keys(found), key=lambda key: (key.created_s, key.id))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unavailable("the store of tenants and keys does not answer; try again, or look at its disk") from error
