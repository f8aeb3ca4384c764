"""What vLLM needs of this process before it boots, what it says meanwhile and leaves behind. Adapter to vLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.models.registry import ModelRegistry
from vllm.v1.kv_cache_interface import KVCacheConfig

from pilotlight_engine.vllm_adapter import lora_kernels
from pilotlight_models.folder_files import read_object


def allow_amx() -> None:
    """Linux ends a process that uses AMX tiles unasked. oneDNN asks; vLLM's own kernels for small layers do not, so an
    engine that has only such layers was ended by SIGILL. Does nothing on a CPU without AMX."""
    torch.cpu._init_amx()


def prepare_for_adapters(config: Any) -> None:
    """Where the engine takes adapters, have vLLM clear a block of the KV cache before another request gets it, as it
    does for some models, and multiply as `lora_kernels` does. `config`: vLLM's VllmConfig.

    The rest of a block is multiplied by zero, which is no zero where it holds no number: what an adapter whose weights
    overflow had left there was the end of the next tenant's answer.
    """
    if config.lora_config is None:
        return
    if config.device_config.device_type == "cpu":
        lora_kernels.install()
    KVCacheConfig.needs_kv_cache_zeroing = property(lambda _: True)


def remove_rendezvous(init_method: str) -> None:
    """vLLM leaves the file through which its one worker found itself; a pool that forks for weeks collects them."""
    if init_method.startswith("file://"):
        Path(init_method.removeprefix("file://")).unlink(missing_ok=True)


def register_in_process(model_dir: Path) -> None:
    """Import the model's class here and now, where it is needed anyway.

    vLLM looks at a class it has not registered in a second Python process that imports everything once more, which
    takes longer than the rest of the boot whenever its cache is new.
    """
    config = read_object(model_dir / "config.json") or {}
    for architecture in config.get("architectures") or ():
        lazy = ModelRegistry.models.get(architecture)
        if hasattr(lazy, "load_model_cls"):
            ModelRegistry.register_model(architecture, lazy.load_model_cls())


def with_phases(executor_class: type[Any], on_phase: Callable[[str], None]) -> type[Any]:
    """The executor vLLM chose, telling where the boot is: weights, memory profiling, KV cache, compilation."""

    class PhasedExecutor(executor_class):  # type: ignore[misc]
        def determine_available_memory(self) -> Any:
            on_phase("profile")
            return super().determine_available_memory()

        def initialize_from_config(self, kv_cache_configs: Any) -> Any:
            on_phase("kv-cache")
            return super().initialize_from_config(kv_cache_configs)

        def compile_or_warm_up_model(self) -> Any:
            on_phase("compile")
            return super().compile_or_warm_up_model()

    return PhasedExecutor
