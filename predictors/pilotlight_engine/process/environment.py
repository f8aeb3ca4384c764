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
    eager: bool = False,
    instruction_set: str = "any",
) -> dict[str, str]:
    """`cpus`: what a CPU engine may use, None on a GPU. `preload`: what vLLM's CPU backend wants in LD_PRELOAD.

    `eager`: the engine runs with `enforce_eager`. `instruction_set`: machine.instruction_set, the place of compiled
    code. The model is a local directory by now, so the hub is never asked.
    """
    cache = work_dir / "cache"
    # Compiled for this very CPU (-march=native), which no key of vLLM or torch says: code of another one on the same
    # volume would end the engine with an illegal instruction.
    compiled = cache / f"compiled-{instruction_set}"
    paths = {
        "HOME": work_dir,
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": work_dir / "config",
        "VLLM_CACHE_ROOT": compiled / "vllm",
        "VLLM_CONFIG_ROOT": work_dir / "config" / "vllm",
        "TORCHINDUCTOR_CACHE_DIR": compiled / "inductor",
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
        # OpenMP would take every core of the node, whatever share of it the container has. As in vLLM's own binding one
        # core is left to the other processes, and threads that wait sleep: on shared cores, spinning ones were measured
        # to cost a factor of ten (2 cores, 8 streams: 61 tokens/s against 1046).
        defaults |= {"OMP_NUM_THREADS": str(max(1, cpus - 1)), "OMP_WAIT_POLICY": "PASSIVE"}
        # As vLLM sets it for a CPU, but before torch reads it: otherwise importing the compiler may start processes.
        defaults["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if eager:
        # vLLM compiles small functions on first use even then (the first request with logprobs stalled everyone for
        # 20 s), and an image without a compiler would lose its engine to that request.
        defaults["TORCH_COMPILE_DISABLE"] = "1"
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
