"""Usage in one SQLite file, its owner's alone. Each batch is written whole or not at all. Must not: decide anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilotlight_gateway.sqlite_file import SqliteFile
from pilotlight_gateway.usage.usage_rows import Amounts, Counted, Total

FILE_NAME = "usage.sqlite3"
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

_ADD = (
    f"INSERT INTO usage VALUES ({', '.join('?' * (len(_KEY) + len(_AMOUNTS)))}) "  # noqa: S608 - of constants
    f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _AMOUNTS)}"
)


class SqliteUsage:
    """Implements UsageStore."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _MIGRATIONS, "usage")

    def add(self, counted: Counted) -> None:
        rows = [(*key, *(getattr(amounts, name) for name in _AMOUNTS)) for key, amounts in counted.items()]
        with self._file.transaction() as connection:
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
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute(query, (*given, most)).fetchall()
        count = len(columns)
        return [(tuple(row[:count]), Amounts(*row[count:])) for row in rows if row[count] is not None]

    def close(self) -> None:
        self._file.close()
