"""Which processes have been stopped (SIGSTOP, a debugger) for some time, as the kernel says it of them.

A process that boots cannot be asked: its interpreter may be held for long by a compiler or a library, and a disk or a
busy machine may leave it without any progress. That it is stopped is a fact, and never the fault of either (decision
59). Looks are counted and not seconds, since who looks may have been stopped itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

# Of /proc/PID/stat: stopped by a signal, stopped by a tracer.
_STOPPED = frozenset("Tt")


def is_stopped(pid: int) -> bool:
    """Whether all of it is; False of one that has gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # Its name stands in brackets before that, and may have spaces and brackets.
    return stat.rpartition(")")[2].lstrip()[:1] in _STOPPED


class StoppedProcesses:
    """`looks`: at how many in a row a process has to be stopped before it is told."""

    def __init__(self, looks: int, stopped: Callable[[int], bool] = is_stopped) -> None:
        self._looks = looks
        self._stopped = stopped
        self._seen: dict[int, int] = {}

    def look(self, pids: Collection[int]) -> list[int]:
        """At these, which are all that are watched now. Returns who was stopped at so many looks in a row."""
        self._seen = {pid: self._seen.get(pid, 0) + 1 for pid in pids if self._stopped(pid)}
        return [pid for pid, looks in self._seen.items() if looks >= self._looks]
