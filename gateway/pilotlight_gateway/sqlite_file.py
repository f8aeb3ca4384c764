"""One SQLite file that is its owner's alone, brought to its newest form when it is opened. Blocking, from any thread.

Must not: know what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pilotlight_protocol.errors import Unavailable

BUSY_TIMEOUT_S = 5.0


class SqliteFile:
    """`migrations`: each brings `user_version` one further. `what` it holds: for messages. With `erases`, what is
    deleted is overwritten. Without `outlasts_power`, the latest is lost with the machine's power."""

    def __init__(
        self, path: Path, migrations: Sequence[str], what: str, *, erases: bool = False, outlasts_power: bool = True
    ) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._what = what
        self._owned: int | None = None
        with self._translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            if erases:
                self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if outlasts_power else 'NORMAL'}")
            self._migrate(migrations)

    @contextlib.contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Raises Unavailable where the file does not answer."""
        with self._lock, self._translated():
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def own(self) -> bool:
        """Whether this process is the one that works on what is kept; it is until it closes it, or ends."""
        with self._translated():
            if self._owned is None:
                lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    return False
                self._owned = lock
        return True

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            if self._owned is not None:
                os.close(self._owned)
                self._owned = None

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(migrations):
                raise Unavailable(
                    f"the file of {self._what} was written by a newer version of Pilotlight; run that one"
                )
            for script in migrations[version:]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(migrations)}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            raise Unavailable(f"the store of {self._what} does not answer; try again, or look at its disk") from error
