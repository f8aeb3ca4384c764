"""Reads what this process may use of its machine: CPUs, memory, and the libraries vLLM's CPU backend preloads."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MachineLimits:
    """`cpus`: what this process may run on (affinity, cgroup quota). `memory_bytes`: RAM or the cgroup's limit."""

    cpus: int
    memory_bytes: int


def limits(cgroup: Path = _CGROUP) -> MachineLimits:
    """Affinity and cgroup v2 quota (cpu.max), RAM and the cgroup's limit (v2's memory.max,
    v1's memory.limit_in_bytes), whichever is less."""
    cpus = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cpus = min(cpus, max(1, math.ceil(int(quota) / int(period))))
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _read(cgroup / name).strip()
        if limit.isdigit():
            memory_bytes = min(memory_bytes, int(limit))
    return MachineLimits(cpus, memory_bytes)


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """12 hex digits that differ between CPUs which do not run each other's code: a hash of the features Linux names."""
    features = [
        line.partition(":")[2] for line in _read(cpuinfo).splitlines() if line.startswith(("flags", "Features"))
    ]
    names = sorted(set(features[0].split())) if features else []
    return hashlib.sha256(" ".join([platform.machine(), *names]).encode()).hexdigest()[:12]


def cpu_preload() -> tuple[Path, ...]:
    """vLLM's bundled tcmalloc and PyTorch's OpenMP, as vLLM's CPU platform preloads them for its own children.

    Found without importing either: their import is what the predictor must never pay.
    """
    found: list[Path] = []
    for package, patterns in (
        ("vllm", ("libs/libtcmalloc_minimal*.so*", "libs/libtcmalloc.so*")),
        ("torch", ("../torch.libs/libgomp*.so*", "lib/libgomp*.so*")),
    ):
        root = _package_dir(package)
        matches = [path for pattern in patterns for path in sorted(root.glob(pattern))] if root else []
        found += matches[:1]
    return tuple(found)


def _package_dir(name: str) -> Path | None:
    # Not importlib.util.find_spec: it answers None for a name that the predictor has blocked in sys.modules.
    spec = PathFinder.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
