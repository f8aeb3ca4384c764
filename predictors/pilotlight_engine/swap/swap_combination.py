"""Which combination an engine is of, from what is known before it boots: its model's config, its arguments, its device.

Agent and engine host come to the same by the same rules (`quantization.choose`). Pure. When in doubt a thing is part
of the combination: a proof too few costs a boot, one too many a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotlight_engine.quantization import Device, QuantizationRefused, Requested, checkpoint_format, choose
from pilotlight_protocol.model_config import quantization_settings, text_config
from pilotlight_protocol.swap_proofs import Combination

# These change how much an engine takes at once and how it is called, not how weights lie or who multiplies by them.
_HARMLESS = frozenset({
    "max_num_seqs", "max_model_len", "max_num_batched_tokens", "seed", "gpu_memory_utilization", "enable_sleep_mode",
    "kv_cache_memory_bytes", "enable_prefix_caching", "enable_chunked_prefill", "max_logprobs", "scheduling_policy",
    "long_prefill_token_threshold",
})  # fmt: skip
_FIELDS = frozenset({"dtype", "quantization", "enforce_eager", "tensor_parallel_size", "pipeline_parallel_size"})
_KERNEL_VARIABLES = (
    "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "VLLM_CPU_INT4_W4A8", "VLLM_CPU_SGL_KERNEL",
    "VLLM_DISABLED_KERNELS", "VLLM_USE_AOT_COMPILE", "VLLM_ZENTORCH_WEIGHT_PREPACK",
)  # fmt: skip
# Names of layers: they say which are quantized, never how.
_LONGEST_TEXT = 2048
_LAYER_NAMES = frozenset({"ignore", "modules_to_not_convert"})


@dataclass(frozen=True)
class Versions:
    """`loader`: `loader_code.code_hash`."""

    vllm: str
    torch: str
    loader: str


def combination_of(
    config: Mapping[str, Any],
    stated_dtype: str | None,
    arguments: Mapping[str, str],
    quantization: Requested,
    device: Device,
    versions: Versions,
    environment: Mapping[str, str],
) -> Combination | None:
    """`stated_dtype`: `model_config.dtype_of`. `arguments`: texts of vLLM's engine arguments, our defaults left out.
    None where the device cannot run it."""
    choice = choose(quantization, checkpoint_format(config), device)
    if isinstance(choice, QuantizationRefused):
        return None
    settings = {name: value for name, value in quantization_settings(config).items() if name not in _LAYER_NAMES}
    dtype = arguments.get("dtype", choice.dtype)
    others = {name: text for name, text in arguments.items() if name not in _HARMLESS | _FIELDS}
    others |= {name: environment[name] for name in _KERNEL_VARIABLES if name in environment}
    return Combination(
        vllm=versions.vllm,
        torch=versions.torch,
        loader=versions.loader,
        architecture=_bounded(",".join(map(str, config.get("architectures") or ()))),
        quantization=arguments.get("quantization", choice.vllm_method or "none"),
        scheme=_bounded(json.dumps(settings, sort_keys=True, separators=(",", ":"))) if settings else "",
        dtype=str(stated_dtype) if dtype == "auto" else dtype,
        tied=_bounded(json.dumps(_tied(config))),
        device=device.kind,
        capability=device.instructions if device.kind == "cpu" else ".".join(map(str, device.capability)),
        compiled=arguments.get("enforce_eager", "false") != "true",
        workers=_workers(arguments),
        arguments=tuple(sorted(others.items())),
    )


def _bounded(text: str) -> str:
    """A checkpoint says as much as its maker likes, and every node is told all of it."""
    return text if len(text) <= _LONGEST_TEXT else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _tied(config: Mapping[str, Any]) -> object:
    """As the config says it; null where it leaves that to its architecture."""
    return config.get("tie_word_embeddings", text_config(config).get("tie_word_embeddings"))


def _workers(arguments: Mapping[str, str]) -> str:
    tensor, pipeline = (arguments.get(f"{kind}_parallel_size", "1") for kind in ("tensor", "pipeline"))
    return tensor if pipeline == "1" else f"{tensor}x{pipeline}"
