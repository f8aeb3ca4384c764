"""What a config.json says of quantization, dtype and length, wherever it says it."""

from __future__ import annotations

from typing import Any

import pytest

from pilotlight_protocol.fingerprint import TensorEntry
from pilotlight_protocol.model_config import dtype_of, quantization_of, scaled_context_length_of

AWQ = {"quant_method": "AWQ"}


@pytest.mark.parametrize(
    ("config", "names", "method"),
    [
        ({}, (), "none"),
        ({"quantization_config": AWQ}, (), "awq"),
        ({"quantization_config": AWQ}, ("quantize_config.json",), "awq"),
        ({"text_config": {"quantization_config": AWQ}}, (), "awq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, (), "compressed-tensors"),
        ({"quantization_config": {"bits": 4}}, (), "unknown"),
        ({"quantization_config": None}, ("quantize_config.json",), "gptq"),
        ({"quantization_config": {}}, ("quant_config.json",), "awq"),
        ({}, ("hf_quant_config.json", "config.json"), "modelopt"),
    ],
)
def test_quantization(config: dict[str, Any], names: tuple[str, ...], method: str) -> None:
    assert quantization_of(config, names) == method


def test_dtype_is_the_configs_else_that_of_most_tensors() -> None:
    tensors = [TensorEntry(name, dtype, (1,)) for name, dtype in (("a", "F16"), ("b", "F16"), ("c", "I32"))]
    assert dtype_of({"text_config": {"torch_dtype": "bfloat16"}}, tensors) == "bfloat16"
    assert dtype_of({}, tensors) == "float16"
    assert dtype_of({}, tensors[2:]) is None


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 8192, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 32768),
        ({"max_position_embeddings": 8192, "rope_scaling": None}, 8192),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_the_longest_context(config: dict[str, Any], tokens: int | None) -> None:
    assert scaled_context_length_of(config) == tokens
