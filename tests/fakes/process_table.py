"""What the kernel says of processes that tests started, or that those started."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """Of its main thread; none once it has gone."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def is_alive(pid: int) -> bool:
    """Whether it runs: one that nobody has reaped does not."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def cpu_s(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """From its state on: its name before that may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def processes(*words: str) -> list[int]:
    """Pids whose command line has all of these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if all(word in line for word in words):
                    found.append(int(entry.name))
    return found
