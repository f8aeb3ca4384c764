"""What requests get from a model's files: sampling defaults and the ids that end a text. Adapter to vLLM's config.

Everything an engine derives from its model directory besides the weights is read here, at boot and at a swap alike.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight_engine.vllm_adapter.eos import tokenizer_eos_id


@dataclass(frozen=True)
class ModelDefaults:
    """`sampling`: defaults of SamplingParams' fields. `generation_fields`: what vLLM takes more stop ids from."""

    sampling: Mapping[str, Any]
    generation_fields: Mapping[str, Any]
    tokenizer_eos_id: int | None

    @property
    def eos_ids(self) -> list[int]:
        return sorted(_as_ids(self.tokenizer_eos_id) | _as_ids(self.generation_fields.get("eos_token_id")))


def read(model_config: Any, directory: Path) -> ModelDefaults:
    """`model_config`: vLLM's ModelConfig, left as it is; `directory`: the model to read for.

    The files are somebody else's: besides ValueError and OSError, vLLM's readers may raise anything.
    """
    asked = copy.copy(model_config)
    asked.model, asked.revision = str(directory), None
    defaults = ModelDefaults(
        dict(asked.get_diff_sampling_param()), asked.try_get_generation_config(), tokenizer_eos_id(directory)
    )
    if not all(isinstance(eos_id, int) for eos_id in defaults.eos_ids):
        raise ValueError(f"eos_token_id must be an integer or a list of integers, not {defaults.eos_ids}")
    return defaults


def _as_ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)
