"""What tenants took on each day, in one SQLite file that several processes may have open. Must not: decide anything."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from pilotlight_gateway.limits.kept_budgets import TenantDay
from pilotlight_protocol.errors import Unavailable

FILE_NAME = "budgets.sqlite3"
BUSY_TIMEOUT_S = 5.0
_TABLE = "CREATE TABLE IF NOT EXISTS days (tenant TEXT, day INTEGER, tokens INTEGER, PRIMARY KEY (tenant, day))"
_ADD = "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"


class SqliteBudgets:
    """Implements BudgetStore."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            # What a machine loses with its power is little more than what had not been written yet.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(_TABLE)

    def since(self, day: int) -> dict[TenantDay, int]:
        with self._lock, _translated():
            rows = self._connection.execute("SELECT tenant, day, tokens FROM days WHERE day >= ?", (day,)).fetchall()
        return {(tenant, each): tokens for tenant, each, tokens in rows}

    def add(self, tokens: Mapping[TenantDay, int], forget_before: int) -> None:
        rows = [(tenant, day, taken) for (tenant, day), taken in tokens.items()]
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(_ADD, rows)
                self._connection.execute("DELETE FROM days WHERE day < ?", (forget_before,))
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError) as error:
        raise Unavailable("the file of budgets does not answer; try again, or look at its disk") from error
