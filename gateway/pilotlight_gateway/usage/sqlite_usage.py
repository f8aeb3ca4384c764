"""Usage in one SQLite file, its owner's alone. Each batch is written whole or not at all. Must not: decide anything."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pilotlight_gateway.usage.usage_rows import Amounts, Counted, Total
from pilotlight_protocol.errors import Unavailable

FILE_NAME = "usage.sqlite3"
BUSY_TIMEOUT_S = 5.0
_KEY = ("day", "tenant", "endpoint", "model")
_AMOUNTS = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "slot_ms", "cost")
_MIGRATIONS = (
    f"""
    CREATE TABLE usage (day INTEGER NOT NULL, tenant TEXT NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL,
                        {", ".join(f"{name} INTEGER NOT NULL" for name in _AMOUNTS)},
                        PRIMARY KEY ({", ".join(_KEY)})) WITHOUT ROWID;
    CREATE INDEX usage_of_tenant ON usage (tenant, day);
    """,
)
"""Each brings `user_version` one further."""

_ADD = (
    f"INSERT INTO usage VALUES ({', '.join('?' * (len(_KEY) + len(_AMOUNTS)))}) "  # noqa: S608 - of constants
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _AMOUNTS)}"
)


class SqliteUsage:
    """Implements UsageStore."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._migrate()

    def add(self, counted: Counted) -> None:
        rows = [(*key, *(getattr(amounts, name) for name in _AMOUNTS)) for key, amounts in counted.items()]
        with self._transaction("IMMEDIATE") as connection:
            connection.executemany(_ADD, rows)

    def totals(
        self, columns: Sequence[str], first_day: int, last_day: int, tenant: str | None, endpoint: str | None, most: int
    ) -> list[Total]:
        assert set(columns) <= set(_KEY)
        where, given = ["day BETWEEN ? AND ?"], [first_day, last_day]
        for column, value in (("tenant", tenant), ("endpoint", endpoint)):
            if value is not None:
                where.append(f"{column} = ?")
                given.append(value)  # type: ignore[arg-type]
        sums = ", ".join(f"SUM({name})" for name in _AMOUNTS)
        grouped = f"GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
        query = f"SELECT {', '.join([*columns, sums])} FROM usage WHERE {' AND '.join(where)} {grouped} LIMIT ?"  # noqa: S608
        with self._transaction("DEFERRED") as connection:
            rows = connection.execute(query, (*given, most)).fetchall()
        count = len(columns)
        return [(tuple(row[:count]), Amounts(*row[count:])) for row in rows if row[count] is not None]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        with self._transaction("IMMEDIATE") as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(_MIGRATIONS):
                raise Unavailable("the file of usage was written by a newer version of Pilotlight; run that one")
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


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError) as error:
        raise Unavailable("the store of usage does not answer; try again, or look at its disk") from error
