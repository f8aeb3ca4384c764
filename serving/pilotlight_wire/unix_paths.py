"""Unix socket addresses for paths of any length (the kernel takes 107 bytes). Must not: open sockets."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LONGEST_ADDRESS_BYTES = 107


@contextlib.contextmanager
def short_unix_path(path: Path) -> Iterator[str]:
    """An address that means `path` while the context lasts."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
