"""The environment an engine host runs in. Pure: the parent's environment comes in, the child's goes out.

vLLM, torch and Triton write caches and look up the user; a container may have no HOME, a UID without a passwd entry and
a read-only root. So every path they would choose points into one directory that is known to be writable, and the user
has a name. What the parent's environment sets on purpose (VLLM_*, OMP_*, HF_*) wins, except for paths that would not
be writable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_GIB = 2**30
_MOST_KV_GIB = 4
_BASE_RSS_BYTES = int(1.5 * _GIB)  # vLLM + torch on the CPU after boot, without weights


@dataclass(frozen=True)
class MachineLimits:
    """`cpus`: what this process may run on (affinity, cgroup quota). `memory_bytes`: RAM or the cgroup's limit."""

    cpus: int
    memory_bytes: int


def engine_environment(
    parent: Mapping[str, str],
    work_dir: Path,
    *,
    on_cpu: bool,
    limits: MachineLimits,
    weights_bytes: int,
    preload: tuple[Path, ...] = (),
    offline: bool = True,
) -> dict[str, str]:
    """`preload`: libraries vLLM's CPU backend wants in LD_PRELOAD (its allocator, PyTorch's OpenMP)."""
    cache = work_dir / "cache"
    paths = {
        "HOME": work_dir,
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": work_dir / "config",
        "VLLM_CACHE_ROOT": cache / "vllm",
        "VLLM_CONFIG_ROOT": work_dir / "config" / "vllm",
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
        "TRITON_CACHE_DIR": cache / "triton",
        "TORCH_HOME": cache / "torch",
        "FLASHINFER_WORKSPACE_BASE": work_dir,
        "NUMBA_CACHE_DIR": cache / "numba",
        "TMPDIR": work_dir / "tmp",
    }
    defaults = {
        "USER": "pilotlight",
        "LOGNAME": "pilotlight",
        "HF_HOME": str(cache / "huggingface"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if offline:
        defaults |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if on_cpu:
        defaults |= {
            "VLLM_CPU_KVCACHE_SPACE": str(cpu_kv_cache_gib(limits.memory_bytes, weights_bytes)),
            "OMP_NUM_THREADS": str(limits.cpus),
        }
    forced = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONUNBUFFERED": "1"}
    environment = defaults | dict(parent) | {name: str(path) for name, path in paths.items()} | forced
    if preload:
        names = [str(path) for path in preload]
        environment["LD_PRELOAD"] = ":".join([*names, *filter(None, [parent.get("LD_PRELOAD", "")])])
    return environment


def cpu_kv_cache_gib(memory_bytes: int, weights_bytes: int) -> int:
    """VLLM_CPU_KVCACHE_SPACE when nobody set it: half of what weights and process leave, 1 to 4 GiB, whole GiB.

    vLLM's own default takes 92 % of the machine, which is wrong wherever more than one engine runs.
    """
    left_bytes = memory_bytes - weights_bytes - _BASE_RSS_BYTES
    return max(1, min(_MOST_KV_GIB, left_bytes // (2 * _GIB)))
