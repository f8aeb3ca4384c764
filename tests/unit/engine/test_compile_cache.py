"""Which engines find each other's compiled graphs: what is in vLLM's cache key and what is not. No vLLM."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from pilotlight_engine.boot import compile_cache

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "eos_token_id": 2, "transformers_version": "5.0",
    "quantization_config": {"bits": 4, "group_size": 32},
}  # fmt: skip


@dataclass
class HfConfig:
    """transformers' PreTrainedConfig as far as vLLM's key reads it."""

    values: dict[str, object]

    def to_json_string(self) -> str:
        return json.dumps(self.values)


@dataclass
class ModelConfig:
    """vLLM's, which hashes its fields, the model's directory among them."""

    model: str
    dtype: str = "bfloat16"
    max_model_len: int = 1024
    hf_config: HfConfig = field(default_factory=lambda: HfConfig(CONFIG))
    hf_text_config: HfConfig = field(default_factory=lambda: HfConfig(CONFIG))

    def compute_hash(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def shared(directory: str, architecture: str = "a" * 64, **fields: Any) -> str:
    config = ModelConfig(directory, **fields)
    compile_cache.share(config, architecture)
    assert config.model == directory, "errors and metrics name the model as the user does"
    return config.compute_hash()


def configs(**changes: Any) -> dict[str, Any]:
    changed = HfConfig(CONFIG | changes)
    return {"hf_config": changed, "hf_text_config": changed}


def test_fine_tunes_of_one_architecture_have_one_key() -> None:
    key = shared("/models/a")
    assert shared("/models/b") == key
    assert shared("/models/c", **configs(eos_token_id=7, transformers_version="4.9", _name_or_path="me/tune")) == key
    assert ModelConfig("/models/a").compute_hash() != ModelConfig("/models/b").compute_hash()


@pytest.mark.parametrize(
    "difference",
    [
        {"architecture": "b" * 64},
        {"dtype": "float32"},
        {"max_model_len": 2048},
        configs(hidden_size=128),
        configs(quantization_config={"bits": 8, "group_size": 32}),
        {"hf_text_config": HfConfig(CONFIG | {"hidden_size": 128})},
    ],
)
def test_whatever_changes_the_graph_changes_the_key(difference: dict[str, Any]) -> None:
    assert shared("/models/a", **difference) != shared("/models/a")


def test_the_key_is_that_of_the_moment() -> None:
    config = ModelConfig("/models/a")
    compile_cache.share(config, "a" * 64)
    before = config.compute_hash()
    config.max_model_len = 512
    assert config.compute_hash() != before


@pytest.mark.parametrize(
    ("options", "folded"),
    [({}, False), ({"dce": True}, False), ({"max_autotune": True}, True), ({"freezing": True}, True)],
)
def test_weights_may_be_folded_where_the_compiler_freezes(options: dict[str, object], folded: bool) -> None:
    config = SimpleNamespace(compilation_config=SimpleNamespace(inductor_compile_config=options))
    assert compile_cache.folds_weights(config) is folded
