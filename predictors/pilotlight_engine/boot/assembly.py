"""What an engine host is to boot: quantization, dtype and KV cache decided for this device and these limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight_engine import engine_arguments, model_source
from pilotlight_engine.boot import adapter_check, checkpoint_check, kv_cache
from pilotlight_engine.boot.lora import adapter_arguments, checked_adapter, max_lora_rank
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.process import device_probe, machine
from pilotlight_engine.quantization import QuantizationRefused, Requested, checkpoint_format, choose
from pilotlight_models.checkpoint import Checkpoint, read_checkpoint
from pilotlight_models.folder_files import read_object
from pilotlight_protocol.adapters import rank_class
from pilotlight_protocol.errors import InvalidInput, ModelNotFound
from pilotlight_protocol.model_config import dtype_of
from pilotlight_protocol.pooling_config import is_encoder, pooling_task


@dataclass(frozen=True)
class EngineSettings:
    """`engine_args`: of engine_arguments.parse_engine_args. `loras`: (name, directory). `device_memory_bytes`: a
    slot's share of a GPU; None leaves it to vLLM. `adapter_rank`, `adapter`: as in HostConfig."""

    model_dir: Path
    model_name: str
    quantization: Requested = "auto"
    engine_args: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[tuple[str, str], ...] = ()
    device_memory_bytes: int | None = None
    adapter_rank: int = 0
    adapter: Path | None = None


def configure(
    settings: EngineSettings, environment: Mapping[str, str], limits: machine.MachineLimits
) -> list[tuple[str, str]]:
    """vLLM's arguments, as (field name of EngineArgs, text). Raises EngineMisconfigured, with what to use instead."""
    checkpoint = _checked(settings.model_dir, limits.memory_bytes)
    config = checkpoint.config
    pools = pooling_task(config, has_modules=checkpoint.pooling is not None and checkpoint.pooling.has_modules)
    device = device_probe.read(environment)
    choice = choose(settings.quantization, checkpoint_format(config), device)
    if isinstance(choice, QuantizationRefused):
        raise EngineMisconfigured(f"{choice.reason}; {choice.use_instead}")
    chosen: dict[str, str | None] = {"quantization": choice.vllm_method, "dtype": choice.dtype}
    if device.kind == "cpu" and "VLLM_CPU_KVCACHE_SPACE" not in environment:
        length = settings.engine_args.get("max_model_len", "")
        weights_bytes = model_source.weights_bytes(settings.model_dir)
        size = kv_cache.cpu_kv_cache_bytes(
            config, int(length) if length.isdigit() else None, limits.memory_bytes, weights_bytes
        )
        chosen["kv_cache_memory_bytes"] = str(size)
        if is_encoder(config):
            chosen |= _encoder_on_cpu(checkpoint, choice.dtype)
    given = dict(settings.engine_args)
    if device.kind == "cuda" and settings.device_memory_bytes is not None:
        share = _share(settings.device_memory_bytes, device.memory_bytes)
        # Whoever asked for the engine does not know what else runs on the device.
        given |= {"gpu_memory_utilization": share} if share is not None else {}
    if rank := _adapter_rank(settings, checkpoint):
        if pools is not None:
            raise EngineMisconfigured("adapters are for models that generate, and this base makes vectors")
        given |= adapter_arguments(rank)
    elif settings.loras:
        chosen |= {"enable_lora": "true", "max_lora_rank": str(max_lora_rank(settings.loras))}
    defaults = engine_arguments.DEFAULTS if pools is None else engine_arguments.POOLING_DEFAULTS
    return list(engine_arguments.with_defaults(given, chosen, defaults).items())


def _encoder_on_cpu(checkpoint: Checkpoint, dtype: str) -> dict[str, str | None]:
    """A short prompt is read in one pass: compiling it took 51 s and gained nothing (decision 0041), nor did vLLM's
    default of float16 for weights that are float32."""
    is_float32 = dtype_of(checkpoint.config, checkpoint.inventory) == "float32"
    return {
        "enforce_eager": "true",
        "dtype": "float32" if dtype == "auto" and is_float32 else dtype,
        "kv_cache_memory_bytes": str(kv_cache.LEAST_BYTES),  # vLLM wants a number, and takes nothing
    }


def _adapter_rank(settings: EngineSettings, checkpoint: Checkpoint) -> int:
    if settings.adapter is None:
        return settings.adapter_rank
    try:
        return rank_class(adapter_check.rank(checked_adapter(settings.adapter, checkpoint).config))
    except InvalidInput as error:
        raise EngineMisconfigured(error.message) from error


def _checked(model_dir: Path, memory_bytes: int) -> Checkpoint:
    """The checkpoint, where the weights are what its config.json says."""
    try:
        checkpoint = read_checkpoint(model_source.check_directory(model_dir))
        generation_config = read_object(model_dir / "generation_config.json")
    except (InvalidInput, ModelNotFound) as error:
        raise EngineMisconfigured(f"{model_dir} cannot be served: {error.message}") from error
    tensors = [place.entry for place in checkpoint.tensors]
    if found := checkpoint_check.reasons(checkpoint.config, tensors, generation_config, memory_bytes):
        raise EngineMisconfigured(f"{model_dir} cannot be served: {'; '.join(found)}")
    return checkpoint


def _share(slot_bytes: int, device_bytes: int) -> str | None:
    """vLLM's gpu_memory_utilization for a slot; None where the driver does not say how much there is."""
    if not device_bytes:
        return None
    if slot_bytes > device_bytes:
        gib = 2**30
        raise EngineMisconfigured(
            f"the slot has {slot_bytes / gib:.1f} GiB, its GPU only {device_bytes / gib:.1f} GiB; "
            "give it less (--slot cuda:0=70GiB)"
        )
    return f"{math.floor(slot_bytes / device_bytes * 1000) / 1000:g}"
