"""vLLM's compile cache: loaded again by the next boot, and shared by the fine-tunes of one architecture.

What is cached is the traced graph with the machine code of its kernels (torch's AOT artifact). Weights are inputs of
the graph, not part of it, so one artifact serves every checkpoint of an architecture, where SHARED says so. Adapter to
the compilers of vLLM and torch.
"""

from __future__ import annotations

import copy
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from pilotlight_protocol.fingerprint import canonical_config

SHARED = frozenset({("none", "cpu"), ("awq", "cpu")})
"""(quantization, device) of graphs that were shown to hold no weights (tests/integration/test_compile_cache.py)."""


def repair_loading() -> None:
    """Let vLLM load what it saved for a CPU.

    vLLM 0.32 calls `finalize_loading` on every artifact it has loaded. Only its own backend's has that method; on a CPU
    vLLM uses torch's inductor backend, whose artifact is complete once it is unpickled. Without this each boot says
    "Compiling model again due to a load failure" and does so for half a minute.
    """
    artifact = import_module("torch._dynamo.aot_compile_types").BundledAOTAutogradSerializableCallable
    if not hasattr(artifact, "finalize_loading"):
        artifact.finalize_loading = lambda _self, _vllm_config: None


def key_threads(config: Any, threads: int) -> None:
    """Put the number of CPU threads into the cache's key: inductor makes loops parallel, or not, for that many.

    torch's own key of a kernel has it, vLLM's of a graph has not. `config`: vLLM's VllmConfig before anything compiles.
    """
    config.additional_config = {**config.additional_config, "pilotlight_cpu_threads": threads}


def share(model_config: Any, architecture: str) -> None:
    """Put the architecture's hash where vLLM's cache key has the model's directory. Call it before anything compiles.

    `architecture`: fingerprint.architecture_hash. Everything else stays in the key: dtype, quantization, lengths,
    engine arguments, versions of vLLM and torch. Of the model's config only what no engine builds from is left out, as
    in the architecture itself (names of tools, token ids), since fine-tunes differ in it.
    """
    own_hash = type(model_config).compute_hash

    def compute_hash() -> str:
        shared = copy.copy(model_config)
        shared.model = f"architecture:{architecture}"
        shared.hf_config = _canonical(model_config.hf_config)
        shared.hf_text_config = _canonical(model_config.hf_text_config)
        return str(own_hash(shared))

    model_config.compute_hash = compute_hash


def _canonical(hf_config: Any) -> dict[str, object]:
    return canonical_config(json.loads(hf_config.to_json_string()))


def folds_weights(config: Any) -> bool:
    """Whether the compiler makes weights into constants of the graph (inductor's freezing, which max_autotune turns on
    for a CPU): such a graph belongs to one checkpoint. `config`: vLLM's VllmConfig."""
    options = config.compilation_config.inductor_compile_config
    frozen = os.environ.get("TORCHINDUCTOR_FREEZING") == "1"
    return bool(frozen or options.get("freezing") or options.get("max_autotune"))


def prepare_loading() -> bool:
    """What every process must find out before it can load a graph for this CPU, found out once, for the forks.

    It reads torch's sources (their hash is part of the cache's key) and runs a program for each instruction set, which
    takes 1 to 2 s. True when it was done; False when no graph is cached, so that nothing would be gained.
    """
    cached = sorted(_cached_graphs())
    if not cached:
        return False
    codecache = import_module("torch._inductor.codecache")
    codecache.torch_key()
    codecache.triton_key()
    # The programs were compiled beside the graph; anywhere else they would be compiled again.
    usual = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cached[0])
    try:
        import_module("torch._inductor.cpu_vec_isa").valid_vec_isa_list()
    finally:
        if usual is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = usual
    return True


def _cached_graphs() -> list[Path]:
    root = Path(import_module("vllm.envs").VLLM_CACHE_ROOT, "torch_compile_cache", "torch_aot_compile")
    return [graph.parents[1] / "inductor_cache" for graph in root.glob("*/rank_0_0/model")]
