"""The environment an engine host runs in. Pure: the parent's environment comes in, the child's goes out.

vLLM, torch and Triton write caches and look up the user; a container may have no HOME, a UID without a passwd entry and
a read-only root. So every path they would choose points into one directory that is known to be writable, and the user
has a name. What the parent's environment sets on purpose (VLLM_*, OMP_*, HF_*) wins, except for paths that would not
be writable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def engine_environment(
    parent: Mapping[str, str],
    work_dir: Path,
    *,
    cpus: int | None = None,
    preload: tuple[Path, ...] = (),
) -> dict[str, str]:
    """`cpus`: OpenMP threads of a CPU engine, None on a GPU. `preload`: what vLLM's CPU backend wants in LD_PRELOAD.

    The model is a local directory by now, so the hub is never asked.
    """
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
    if cpus is not None:
        # OpenMP would take every core of the node, whatever share of it the container has.
        defaults["OMP_NUM_THREADS"] = str(cpus)
    forced = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment = defaults | dict(parent) | {name: str(path) for name, path in paths.items()} | forced
    if preload:
        names = [str(path) for path in preload]
        environment["LD_PRELOAD"] = ":".join([*names, *filter(None, [parent.get("LD_PRELOAD", "")])])
    return environment
