"""Tenants and keys in one SQLite file, which several processes may have open: gateways, and the command line.

WAL, so that readers never wait for a writer; the file is its owner's alone. Must not: decide anything.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from pilotlight_gateway.sqlite_file import SqliteFile
from pilotlight_gateway.tenants.tenant_records import KeyRecord, TenantRecord
from pilotlight_gateway.tenants.tenant_store import Change, Changes, Decide

FILE_NAME = "tenants.sqlite3"
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


class SqliteTenants:
    """Implements TenantStore."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _MIGRATIONS, "tenants and keys")

    def changes(self, after: int) -> Changes | None:
        with self._file.transaction("DEFERRED") as connection:
            upto = _counter(connection)
            if upto == after:
                return None
            tenants = connection.execute("SELECT record FROM tenants WHERE changed > ?", (after,)).fetchall()
            keys = connection.execute("SELECT record FROM keys WHERE changed > ?", (after,)).fetchall()
        return Changes(upto, _tenants(tenants), _keys(keys))

    def tenants(self) -> list[TenantRecord]:
        with self._file.transaction("DEFERRED") as connection:
            return _tenants(connection.execute("SELECT record FROM tenants ORDER BY name").fetchall())

    def keys(self, tenant: str) -> list[KeyRecord]:
        with self._file.transaction("DEFERRED") as connection:
            return _keys_of(connection, tenant)

    def change(self, tenant: str, decide: Decide) -> Change:
        with self._file.transaction() as connection:
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
        self._file.close()


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
