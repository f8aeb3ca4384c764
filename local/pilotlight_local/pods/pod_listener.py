"""Who listens on a pod's port: only a process of the pod itself is believed when a probe is answered.

A program that took the port first would otherwise be given the pod's requests. Reads /proc (proc_pid_net(5),
proc_pid_fd(5)). Must not: connect, or decide what follows.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pilotlight_local.pods import process_init

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"
# 127.0.0.1 and what includes it, as the kernel writes addresses: words in host byte order.
_ANSWERS_LOOPBACK = {"0100007F", "0" * 8, "0" * 32, "0000000000000000FFFF00000100007F"}


class PodListener:
    """The listeners on one pod's port."""

    def __init__(self, port: int, init_pid: int) -> None:
        self._port = port
        self._init_pid = init_pid
        self._own: frozenset[int] = frozenset()

    def is_own(self) -> bool:
        """Whether all who listen on the port are processes of the pod; also when nobody does. Reads files."""
        listening = frozenset(inode for table in TABLES for inode in _inodes_in(table, self._port))
        # A socket keeps its number while it lives, so who owns it is asked once.
        if not listening <= self._own:
            self._own = listening & _sockets_below(self._init_pid)
        return listening <= self._own


def listening_inodes(lines: Iterable[str], port: int) -> Iterator[int]:
    """Sockets that accept connections to 127.0.0.1:`port`, by the lines of a table of the kernel, heading first."""
    lines = iter(lines)
    next(lines, None)
    for line in lines:
        fields = line.split()
        # Listeners stand first; there may be very many connections after them.
        if fields[3] != _LISTEN:
            return
        address, _, local_port = fields[1].partition(":")
        if int(local_port, 16) == port and address in _ANSWERS_LOOPBACK:
            yield int(fields[9])


def _inodes_in(table: Path, port: int) -> list[int]:
    try:
        with table.open(encoding="ascii") as lines:
            return list(listening_inodes(lines, port))
    except FileNotFoundError:
        # A kernel without IPv6.
        return []


def _sockets_below(pid: int) -> set[int]:
    """Sockets that the processes below `pid` have open."""
    found: set[str] = set()
    for process in process_init.descendants(pid):
        # It may end, or close a file, while we look.
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(entry.path))  # noqa: PTH115 - quicker
    return {int(link[8:-1]) for link in found if link.startswith("socket:[")}
