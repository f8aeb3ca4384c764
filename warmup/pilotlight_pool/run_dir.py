"""The private folder in which engines listen: ours alone, emptied of an earlier run's sockets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput
from pilotlight_store.published.locks import FileLock

_LONGEST_SOCKET_NAME = 40
_UNIX_PATH_BYTES = 107


@contextlib.contextmanager
def open_run_dir(folder: Path, *, for_sockets: bool = True) -> Iterator[Path]:
    """Raises InvalidInput when the folder is another's, in use, or too deep for a socket's path."""
    folder = folder.absolute()
    if for_sockets and len(os.fsencode(folder)) + 1 + _LONGEST_SOCKET_NAME > _UNIX_PATH_BYTES:
        raise InvalidInput(f"--run_dir {folder} is too deep for a socket's path of {_UNIX_PATH_BYTES} bytes")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise InvalidInput(f"--run_dir {folder} belongs to another user")
        folder.chmod(0o700)
    except OSError as error:
        raise InvalidInput(f"--run_dir {folder}: {error.strerror or error}") from error
    lock = FileLock.try_acquire(folder / "agent.lock")
    if lock is None:
        raise InvalidInput(f"--run_dir {folder} is used by another warm pool; end it, or take another folder")
    try:
        _remove_sockets(folder)
        yield folder
    finally:
        _remove_sockets(folder)
        lock.release(remove=True)


def _remove_sockets(folder: Path) -> None:
    for path in folder.glob("*.sock"):
        path.unlink(missing_ok=True)
