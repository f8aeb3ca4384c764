"""The log files of a component's pods: which there are, reading them, following them. Must not: know what runs now."""

import time
from collections.abc import Iterator
from pathlib import Path

KEPT_LOGS = 20
FOLLOW_PERIOD_S = 0.1
READ_BYTES = 1 << 16


def newest_logs(folder: Path) -> list[Path]:
    """Log files of one component, the one written last first."""
    return sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)


def start_afresh(path: Path) -> None:
    """Forget what an earlier pod of the same name has written (its endpoint was deleted and made anew)."""
    for old in (path, rotated(path)):
        old.unlink(missing_ok=True)


def rotated(path: Path) -> Path:
    """Where the older part of a log lies once it is full."""
    return path.with_name(path.name + ".1")


def prune_logs(folder: Path) -> None:
    """Keep the newest logs only, so that an endpoint that wakes often does not fill the disk."""
    for path in newest_logs(folder)[KEPT_LOGS:]:
        start_afresh(path)


def read_log(path: Path) -> str:
    """All that is kept of a pod's output, the rotated part first."""
    parts = [part.read_text(errors="replace") for part in (rotated(path), path) if part.exists()]
    return "".join(parts)


def follow_newest(folder: Path) -> Iterator[str]:
    """New output of the newest pod, for ever; changes over when a newer pod writes or the file rotates."""
    current: Path | None = None
    inode, position = 0, 0
    while True:
        newest = next(iter(newest_logs(folder)), None)
        if newest is not None:
            facts = newest.stat()
            if newest != current or facts.st_ino != inode:
                position = facts.st_size if current is None else 0
                current, inode = newest, facts.st_ino
            with newest.open("rb") as log:
                log.seek(position)
                while chunk := log.read(READ_BYTES):
                    position += len(chunk)
                    yield chunk.decode(errors="replace")
        time.sleep(FOLLOW_PERIOD_S)
