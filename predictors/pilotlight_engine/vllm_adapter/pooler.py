"""What an engine with a pooling model does: parameters to vLLM's, its tensors to vectors. Adapter to vLLM."""

from __future__ import annotations

import math
from typing import Any

import torch
from vllm.pooling_params import PoolingParams

from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_protocol.engine_frames import SwapCheck
from pilotlight_protocol.errors import InternalError
from pilotlight_protocol.pooling import PooledVector, PoolingInfo, PoolRequest, check_pooling


class Pooler:
    """`tasks`: what vLLM says that the loaded model can be asked for."""

    def __init__(self, model_config: Any, tasks: tuple[str, ...]) -> None:
        self.info = _info(model_config, tasks)
        self._has_types = int(getattr(model_config.hf_config, "type_vocab_size", 0) or 0) > 1

    def params(self, request: PoolRequest) -> PoolingParams:
        """Raises InvalidInput for what the model cannot do."""
        asked = request.parameters
        check_pooling(asked, self.info)
        pair = request.pair_start if self._has_types else None
        return PoolingParams(
            task=self.info.task,
            dimensions=asked.dimensions,
            use_activation=asked.use_activation,
            extra_kwargs=None if pair is None else {"compressed_token_type_ids": pair},
        )

    def plain_params(self) -> PoolingParams:
        return PoolingParams(task=self.info.task)

    def vector(self, output: Any) -> PooledVector:
        """Raises InternalError: vLLM gave up on it, or its numbers are none."""
        if output.error is not None:
            raise InternalError("the engine failed on this request; try it again")
        values = output.outputs.data.to(torch.float32).flatten()
        if not bool(torch.isfinite(values).all()):
            raise InternalError("the model's vector is not finite: its weights or its dtype do not suit this text")
        return PooledVector(values.numpy().tobytes(), len(output.prompt_token_ids), output.num_cached_tokens or 0)

    def check(self, output: Any) -> SwapCheck:
        """The largest value of a fixed prompt's vector, and where it stands."""
        values = self.vector(output).floats()
        largest = max(values, key=abs)
        if not math.isfinite(largest):
            raise InternalError(f"the engine's vectors are not finite ({largest})")
        return SwapCheck(values.index(largest), largest)


def pooler_of(config: Any, tasks: tuple[str, ...]) -> Pooler | None:
    """None for a model that generates. `config`: vLLM's VllmConfig."""
    model_config = config.model_config
    return Pooler(model_config, tasks) if model_config.runner_type == "pooling" else None


def has_kv_cache(config: Any) -> bool:
    """An encoder reads its prompt at once and keeps nothing of it."""
    return config.model_config.attn_type not in ("encoder_only", "attention_free")


def _info(model_config: Any, tasks: tuple[str, ...]) -> PoolingInfo:
    if "embed" in tasks:
        shorter = list(model_config.matryoshka_dimensions or ()) if model_config.is_matryoshka else None
        return PoolingInfo("embed", int(model_config.embedding_size), shorter)
    if "classify" in tasks:
        return PoolingInfo("classify", int(model_config.hf_config.num_labels))
    raise EngineMisconfigured(f"a pooling model that embeds or classifies is served here; this one does {tasks}")
