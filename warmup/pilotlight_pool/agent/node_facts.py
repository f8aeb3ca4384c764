"""What an agent knows of its node beside the models: device, versions, what engines take for their KV cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotlight_engine.quantization import REQUESTS, Device
from pilotlight_engine.swap.swap_combination import Versions, combination_of
from pilotlight_pool.engine_orders import ModelOrder
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.swap_proofs import Combination

_LEAST_KV_BYTES = 256 * 2**20
_WHOLE_NUMBER = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class NodeKernels:
    """What `combination_of` wants of a node."""

    device: Device
    versions: Versions
    environment: Mapping[str, str]


@dataclass(frozen=True)
class NodeFacts:
    """`device`: `cpu` or `cuda`; `vllm_version` as installed where the engines run. `kv_cache_bytes`: of every engine,
    whatever its arguments say; None where they decide. `kernels`: what else its engines' kernels are chosen by; None:
    nothing is swapped."""

    device: str
    vllm_version: str
    kv_cache_bytes: int | None = None
    kernels: NodeKernels | None = None

    def combination(self, order: ModelOrder, config: Mapping[str, Any], dtype: str | None) -> Combination | None:
        """What a proof of its swaps is for. `dtype`: `model_config.dtype_of`. What vLLM itself refuses is told by the
        boot."""
        kernels = self.kernels
        if kernels is None or kernels.device.kind != self.device or order.loras or order.quantization not in REQUESTS:
            return None
        return combination_of(
            config,
            dtype,
            order.engine_args,
            order.quantization,
            kernels.device,
            kernels.versions,
            kernels.environment,
        )


def kv_cache_bytes(device: str, environment: Mapping[str, str]) -> int | None:
    """NodeFacts' from the environment of engines: vLLM's VLLM_CPU_KVCACHE_SPACE, in GiB. Raises InvalidInput."""
    space = environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    if device != "cpu" or not space:
        return None
    if not _WHOLE_NUMBER.fullmatch(space):
        raise InvalidInput(f"VLLM_CPU_KVCACHE_SPACE must be whole GiB such as 1, not {space!r}")
    return int(space) * 2**30


def kv_bytes(order: ModelOrder, node: NodeFacts) -> int:
    """Of an engine for this order. Raises InvalidInput."""
    asked = order.engine_args.get("kv_cache_memory_bytes")
    if asked is not None and not _WHOLE_NUMBER.fullmatch(asked):
        # vLLM would also read 64G: counted as nothing, it would step over its slot.
        raise InvalidInput(f"engine argument 'kv_cache_memory_bytes' must be bytes in digits, not {asked!r}")
    if node.kv_cache_bytes is not None:
        return node.kv_cache_bytes
    return int(asked) if asked is not None else _LEAST_KV_BYTES
