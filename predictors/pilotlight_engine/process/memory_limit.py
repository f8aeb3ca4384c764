"""The memory an engine's process may take, and what ends it when it takes more. Adapter to Linux.

Three fences, from what the kernel offers every process to what few may use. An address space that may not grow beyond
the limit (RLIMIT_DATA): an absurd allocation fails at once and nothing is touched. A thread that looks every second and
tells why it ends the process. A cgroup v2 of its own with memory.max, where one may be made. Must not know models.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pilotlight_engine.process.machine import MachineLimits

_GIB = 2**30
_PERIOD_S = 1.0
# What the process has before a model, most of it shared with its zygote (measured: 487 MiB), and its threads' stacks.
_BEFORE_A_MODEL_BYTES = 512 * 2**20
# Left to the server in front of the engine, and to whoever else runs on the machine.
_RESERVE_BYTES = 512 * 2**20
# Of what an engine has left after its boot: the rest is for batches, constraints and what a swap maps.
_SPARE_SHARE = 0.5
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """`limit_bytes` of private memory. `whose`: what gives it, for the person who can give more. `fixed`: the same at
    the next boot, so that a model that does not fit now never will. `growth_bytes`: by how much the address space may
    grow at most, weights mapped from files beside it; None where drivers reserve more than they take."""

    limit_bytes: int
    whose: str
    fixed: bool
    growth_bytes: int | None

    def spare_bytes(self) -> int:
        """What a booted engine, this process, may keep beside what it needs."""
        return max(0, int((self.limit_bytes - resident_bytes()) * _SPARE_SHARE))

    def exceeded(self, bytes_: int) -> str:
        return f"the engine took {bytes_ / _GIB:.1f} GiB of memory, {self}"

    def __str__(self) -> str:
        return f"{self.whose} {self.limit_bytes / _GIB:.1f} GiB; give it more, or serve a smaller model"


def of_slot(slot_bytes: int) -> MemoryLimit:
    """On a CPU. A slot on a GPU is the device's memory, and the host's is as an engine's of its own."""
    return MemoryLimit(slot_bytes, "its slot (--slot) has", True, slot_bytes)


def of_machine(limits: MachineLimits, on_cpu: bool, meminfo: Path = Path("/proc/meminfo")) -> MemoryLimit:
    """What is there now, but for a reserve."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    there = min(limits.memory_bytes, int(found[1]) * 1024) if found is not None else limits.memory_bytes
    left = max(there - _RESERVE_BYTES, there // 2)
    return MemoryLimit(left, "the machine or its container has left", False, left if on_cpu else None)


def enforce(limit: MemoryLimit, weights_bytes: int, on_exceeded: Callable[[str], None]) -> None:
    """For this process, from now on. `on_exceeded`, in a thread of its own, is told why, and ends the process.

    `weights_bytes`: of the model's files, which a load or a swap maps beside the weights that are in use.
    """
    if limit.growth_bytes is not None:
        most = limit.growth_bytes + weights_bytes + _BEFORE_A_MODEL_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    # Above the limit, so that the thread that can tell why comes first.
    enter_cgroup(limit.limit_bytes + limit.limit_bytes // 10)
    threading.Thread(target=_watch, args=(limit, on_exceeded), name="memory", daemon=True).start()


def enter_cgroup(most_bytes: int, cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> bool:
    """Move this process into a cgroup v2 of its own beside the one it is in; False where that is not ours to do.

    Beside, not below: a cgroup whose children have the memory controller may hold no process itself.
    """
    pid = os.getpid()
    with contextlib.suppress(OSError):
        (own,) = [line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")] or ["/"]
        parent = (cgroups / own.strip("/")).parent
        if own == "/" or "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            return False
        for ended in parent.glob("pilotlight-engine-*"):
            with contextlib.suppress(OSError):
                ended.rmdir()
        mine = parent / f"pilotlight-engine-{pid}"
        mine.mkdir(exist_ok=True)
        (mine / "memory.max").write_text(str(most_bytes))
        (mine / "memory.oom.group").write_text("1")
        (mine / "cgroup.procs").write_text(str(pid))
        return True
    return False


def private_bytes(process: Path = Path("/proc/self")) -> int:
    """Memory that only this process keeps in use; pages of files, which the kernel can drop, are not counted.

    Of pages that forks share it counts its part. That is asked only where it may matter: it takes 20 ms.
    """
    return sum(
        int(line.split()[1]) * 1024
        for line in (process / "smaps_rollup").read_text().splitlines()
        if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
    )


def resident_bytes(process: Path = Path("/proc/self")) -> int:
    """The same with every shared page counted whole; takes 0.1 ms."""
    return sum(
        int(line.split()[1]) * 1024
        for line in (process / "status").read_text().splitlines()
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def _watch(limit: MemoryLimit, on_exceeded: Callable[[str], None]) -> None:
    waiting = threading.Event()
    while not waiting.wait(_PERIOD_S):
        if resident_bytes() > limit.limit_bytes and (taken := private_bytes()) > limit.limit_bytes:
            on_exceeded(limit.exceeded(taken))
            return
