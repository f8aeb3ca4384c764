"""Which adapters are refused before anything is allocated, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from adapter_folders import CONFIG, write_header

from pilotlight_engine.boot import adapter_check
from pilotlight_engine.boot.lora import checked_adapter
from pilotlight_models import bundled_model_path
from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_protocol.adapters import AT_ONCE, LARGEST_RANK, kept, rank_class
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.fingerprint import TensorEntry

LAYER = "model.layers.0.self_attn.q_proj"
BASE = {LAYER: (64, 32)}


def pair(layer: str = LAYER, rank: int = 8, dtype: str = "BF16") -> list[TensorEntry]:
    return [
        TensorEntry(f"base_model.model.{layer}.lora_A.weight", dtype, (rank, 32)),
        TensorEntry(f"base_model.model.{layer}.lora_B.weight", dtype, (64, rank)),
    ]


@pytest.mark.parametrize(
    "config",
    [
        {}, {"use_rslora": True}, {"modules_to_save": None}, {"modules_to_save": []}, {"init_lora_weights": "gaussian"},
        {"target_modules": "all-linear"}, {"rank_pattern": {}, "alpha_pattern": None}, {"lora_alpha": 0.5},
        {"something_new": 1},
    ],
)  # fmt: skip
def test_a_plain_adapter_is_served(config: dict[str, Any]) -> None:
    assert adapter_check.reasons({**CONFIG, **config}, pair(), BASE) == ()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 0}, "no rank"),
        ({"r": True}, "no rank"),
        ({"r": "8"}, "no rank"),
        ({"r": 10**400}, "a number of 1329 bits"),
        ({"r": LARGEST_RANK + 1}, f"rank {LARGEST_RANK} at most"),
        ({"lora_alpha": None}, "no scale"),
        ({"lora_alpha": float("inf")}, "no scale"),
        ({"lora_alpha": float("nan")}, "no scale"),
        ({"target_modules": 3}, "neither names nor a pattern"),
        ({"target_modules": [1]}, "neither names nor a pattern"),
        ({"rank_pattern": {"(a+)+$": 4}}, "ranks or scales of single modules"),
        ({"alpha_pattern": [1]}, "no object"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias 'all'"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"use_qalora": True}, "QALoRA"),
        ({"use_bdlora": {"x": 1}}, "block-diagonal"),
        ({"alora_invocation_tokens": [1]}, "activated"),
        ({"trainable_token_indices": [1]}, "single tokens"),
        ({"target_parameters": ["experts"]}, "bare parameters"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"init_lora_weights": 3}, "changes the base's weights"),
    ],
)
def test_what_would_be_answered_otherwise_is_refused(config: dict[str, Any], words: str) -> None:
    found = adapter_check.reasons({**CONFIG, **config}, pair(), BASE)
    assert words in "; ".join(found)


@pytest.mark.parametrize(
    ("named", "base", "other"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "hf://Qwen/Qwen2.5-0.5B-Instruct", False),
        ("Qwen/Qwen2.5-0.5B-Instruct", "hf://mirror/qwen2.5-0.5b-instruct-AWQ@main", False),
        ("unsloth/Qwen2.5-0.5B-Instruct-bnb-4bit", "hf://Qwen/Qwen2.5-0.5B-Instruct:0123abc", False),
        ("/home/me/Qwen2.5-0.5B-Instruct/", "s3://bucket/models/Qwen2.5-0.5B-Instruct?x=1", False),
        ("Qwen/Qwen2.5-0.5B", "hf://Qwen/Qwen2.5-0.5B-Instruct", True),
        ("mistralai/Mistral-7B-v0.3", "file:///models/Mistral-7B-v0.1", True),
        ("x" * 5000, "hf://a/b", True),
        (None, "hf://a/b", False),
        ("", "hf://a/b", False),
        (7, "hf://a/b", False),
    ],
)
def test_another_base_than_it_names_is_told(named: object, base: str, other: bool) -> None:
    found = adapter_check.other_base({**CONFIG, "base_model_name_or_path": named}, base)
    assert (bool(found), len(found) < 200) == (other, True)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "no weights"),
        (pair()[:1], "only one half"),
        (pair(rank=4), "is [4, 32], not [8, 32]"),
        (pair(dtype="I8"), "BF16, F16 or F32"),
        (pair("model.layers.9.self_attn.q_proj"), "no layer of the base"),
        (pair("lm_head"), "no layer of the base"),
        ([*pair(), TensorEntry("model.embed_tokens.weight", "F32", (1 << 40,))], "no layer of the base"),
        ([*pair(), TensorEntry(f"base_model.model.{LAYER}.lora_B.bias", "F32", (64,))], "no layer of the base"),
        ([*pair(), TensorEntry(f"base_model.model.{LAYER}.lora_magnitude_vector", "F32", (64,))], "no layer of"),
    ],
)
def test_tensors_are_what_rank_and_base_make_them(tensors: list[TensorEntry], words: str) -> None:
    assert words in "; ".join(adapter_check.reasons(CONFIG, tensors, BASE))


def test_what_is_said_stays_short_whatever_it_is() -> None:
    tensors = [TensorEntry("x" * 10**6, "F32", (1,)) for _ in range(100)]
    assert len("; ".join(adapter_check.reasons(CONFIG, tensors, BASE))) < 1000


@pytest.mark.parametrize("name", ["demo-bf16", "demo-awq"])
def test_the_layers_of_a_quantized_base_are_those_of_the_plain_one(tmp_path: Path, name: str) -> None:
    layer, base = "base_model.model.model.layers.3.mlp.down_proj", read_checkpoint(bundled_model_path(name))
    write_header(tmp_path, {f"{layer}.lora_A.weight": (8, 512), f"{layer}.lora_B.weight": (256, 8)})
    adapter = checked_adapter(tmp_path, base)
    assert (adapter_check.rank(adapter.config), len(adapter.tensors)) == (8, 2)
    write_header(tmp_path, {f"{layer}.lora_A.weight": (8, 256), f"{layer}.lora_B.weight": (256, 8)})
    with pytest.raises(InvalidInput, match="as rank and base make it"):
        checked_adapter(tmp_path, base)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no adapter_config.json"),
        ({"adapter_config.json": b"{}"}, "no adapter_model.safetensors"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "pickled"),
        ({"adapter_config.json": b"[" * 100_000, "adapter_model.safetensors": b""}, "not valid JSON"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 9}, "no valid safetensors file"),
    ],
)
def test_a_folder_that_is_no_adapter_is_named_and_its_path_is_not(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=words) as refused:
        checked_adapter(tmp_path, read_checkpoint(bundled_model_path("demo-bf16")))
    assert str(tmp_path) not in refused.value.message


def test_rank_classes_are_ranks_that_vllm_offers() -> None:
    assert [rank_class(rank) for rank in (1, 16, 17, 64, 65, LARGEST_RANK)] == [16, 16, 64, 64, 256, 256]
    assert all(kept(rank) >= at_once for rank, at_once in AT_ONCE.items())
    assert set(AT_ONCE) <= {8, 16, 32, 64, 128, 256, 320, 512}
