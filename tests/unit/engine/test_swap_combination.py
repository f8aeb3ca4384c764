"""What decides how weights lie and who multiplies by them is part of a combination; what does not is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pilotlight_engine.quantization import Device
from pilotlight_engine.swap.swap_combination import Versions, combination_of
from pilotlight_protocol.swap_proofs import Combination

CONFIG = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "tie_word_embeddings": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
CPU = Device("cpu", instructions="x86_64+avx2")
VERSIONS = Versions("0.32.0", "2.13.0", "abc")


def combination(
    config: dict[str, Any] | None = None,
    arguments: dict[str, str] | None = None,
    device: Device = CPU,
    versions: Versions = VERSIONS,
    environment: dict[str, str] | None = None,
) -> Combination:
    found = combination_of(
        CONFIG | (config or {}), "bfloat16", arguments or {}, "auto", device, versions, environment or {}
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    "same",
    [
        {"config": {"hidden_size": 4096, "vocab_size": 5}},
        {"arguments": {"max_num_seqs": "8", "max_model_len": "64", "seed": "7"}},
        {"arguments": {"enforce_eager": "false"}},
        {"arguments": {"dtype": "auto"}},
        {"environment": {"HOME": "/", "VLLM_CPU_KVCACHE_SPACE": "1"}},
        {"device": dataclasses.replace(CPU, name="another")},
    ],
)
def test_sizes_lengths_and_places_are_not_in_it(same: dict[str, Any]) -> None:
    assert combination(**same).key == combination().key


@pytest.mark.parametrize(
    "other",
    [
        {"config": {"architectures": ["Qwen2ForCausalLM"]}},
        {"config": {"tie_word_embeddings": False}},
        {"config": {"quantization_config": AWQ}},
        {"config": {"quantization_config": AWQ | {"group_size": 128}}},
        {"config": {"quantization_config": AWQ | {"zero_point": False}}},
        {"arguments": {"dtype": "float16"}},
        {"arguments": {"enforce_eager": "true"}},
        {"arguments": {"quantization": "fp8"}},
        {"arguments": {"tensor_parallel_size": "2"}},
        {"arguments": {"pipeline_parallel_size": "2"}},
        {"arguments": {"speculative_config": "{}"}},
        {"arguments": {"an_argument_of_tomorrow": "1"}},
        {"environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"}},
        {"environment": {"VLLM_CPU_SGL_KERNEL": "0"}},
        {"device": dataclasses.replace(CPU, instructions="x86_64+avx2+avx512f", amx=False)},
        {"device": Device("cuda", (9, 0))},
        {"device": Device("cuda", (8, 0))},
        {"versions": dataclasses.replace(VERSIONS, vllm="0.33.0")},
        {"versions": dataclasses.replace(VERSIONS, torch="2.14.0")},
        {"versions": dataclasses.replace(VERSIONS, loader="abd")},
    ],
)
def test_everything_else_is(other: dict[str, Any]) -> None:
    """Each makes a combination of its own, unlike the plain one and unlike every other."""
    assert combination(**other).key != combination().key
    assert combination(**other).name


def test_which_layers_are_not_quantized_says_nothing_of_how_the_others_are() -> None:
    one, other = (AWQ | {"modules_to_not_convert": names} for names in (None, ["lm_head"]))
    assert combination({"quantization_config": one}).key == combination({"quantization_config": other}).key


def test_what_the_device_cannot_run_has_none() -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    assert combination_of(config, "bfloat16", {}, "auto", CPU, VERSIONS, {}) is None
