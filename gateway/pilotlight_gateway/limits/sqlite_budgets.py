"""What tenants took on each day, in one SQLite file that several processes may have open. Must not: decide anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotlight_gateway.limits.kept_budgets import TenantDay
from pilotlight_gateway.sqlite_file import SqliteFile

FILE_NAME = "budgets.sqlite3"
_MIGRATIONS = ("CREATE TABLE IF NOT EXISTS days (tenant TEXT, day INTEGER, tokens INTEGER, PRIMARY KEY (tenant, day))",)
_ADD = "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"


class SqliteBudgets:
    """Implements BudgetStore."""

    def __init__(self, path: Path) -> None:
        # What a machine loses with its power is little more than what had not been written yet.
        self._file = SqliteFile(path, _MIGRATIONS, "budgets", outlasts_power=False)

    def since(self, day: int) -> dict[TenantDay, int]:
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute("SELECT tenant, day, tokens FROM days WHERE day >= ?", (day,)).fetchall()
        return {(tenant, each): tokens for tenant, each, tokens in rows}

    def add(self, tokens: Mapping[TenantDay, int], forget_before: int) -> None:
        rows = [(tenant, day, taken) for (tenant, day), taken in tokens.items()]
        with self._file.transaction() as connection:
            connection.executemany(_ADD, rows)
            connection.execute("DELETE FROM days WHERE day < ?", (forget_before,))

    def close(self) -> None:
        self._file.close()
