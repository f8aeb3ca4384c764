"""Checkpoints of every quantization for `make prove-swaps`, with random weights: what they say means nothing.

Each takes a folder with an unquantized Llama of make_models.py and writes another model of its shape beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Linear = Callable[[str, torch.Tensor, torch.Generator], Tensors]
GROUP = 64
_HEAD = "lm_head.weight"


def gptq(base: Path, out: Path, seed: int) -> None:
    """4 bits, symmetric, groups of 64."""
    settings = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False,
                "lm_head": False}  # fmt: skip
    _write(base, out, seed, settings, _gptq, torch.float16)


def int8(base: Path, out: Path, seed: int) -> None:
    """compressed-tensors, W8A8: a scale for each output, activations by token."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    _write(base, out, seed, _compressed("int-quantized", weights, activations), _int8, torch.bfloat16)


def int4(base: Path, out: Path, seed: int) -> None:
    """compressed-tensors, W4A16 in groups."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP,
               "dynamic": False}  # fmt: skip
    _write(base, out, seed, _compressed("pack-quantized", weights, None), _int4, torch.bfloat16)


def fp8(base: Path, out: Path, seed: int) -> None:
    """Per tensor, activations too."""
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    _write(base, out, seed, settings, _fp8, torch.bfloat16)


def mixture(base: Path, out: Path, seed: int) -> None:
    """Four experts in bf16 (Qwen3-MoE)."""
    import transformers

    config = transformers.Qwen3MoeConfig(
        vocab_size=2048, hidden_size=128, intermediate_size=256, moe_intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_experts=4, num_experts_per_tok=2,
        decoder_sparse_step=1, max_position_embeddings=1024, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    transformers.Qwen3MoeForCausalLM(config).bfloat16().save_pretrained(out)
    for path in base.glob("tokenizer*"):
        shutil.copy(path, out)


def _write(base: Path, out: Path, seed: int, settings: dict[str, Any], linear: Linear, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True)
    tensors: Tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        is_linear = tensor.ndim > 1 and name != _HEAD and "embed_tokens" not in name
        made = linear(name.removesuffix(".weight"), tensor, random) if is_linear else {name: tensor.to(dtype)}
        tensors |= made
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config |= {"quantization_config": settings, "torch_dtype": str(dtype).removeprefix("torch.")}
    (out / "config.json").write_text(json.dumps(config))
    for path in _others(base):
        shutil.copy(path, out)


def _others(base: Path) -> Iterator[Path]:
    yield from (path for path in base.iterdir() if path.name not in ("config.json", "model.safetensors"))


def _compressed(form: str, weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed"}  # fmt: skip


def _words(rows: int, columns: int, random: torch.Generator) -> torch.Tensor:
    """int32, eight values of four bits each."""
    return torch.randint(-(2**31), 2**31, (rows, columns), generator=random, dtype=torch.int64).to(torch.int32)


def _scales(shape: tuple[int, ...], random: torch.Generator, dtype: torch.dtype, steps: int) -> torch.Tensor:
    return ((torch.rand(shape, generator=random) + 0.5) * (0.1 / steps)).to(dtype)


def _gptq(name: str, weight: torch.Tensor, random: torch.Generator) -> Tensors:
    outputs, inputs = weight.shape
    zeros = torch.full((inputs // GROUP, outputs // 8), 0x77777777, dtype=torch.int32)
    return {
        f"{name}.qweight": _words(inputs // 8, outputs, random), f"{name}.qzeros": zeros,
        f"{name}.scales": _scales((inputs // GROUP, outputs), random, torch.float16, 8),
        f"{name}.g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }  # fmt: skip


def _int8(name: str, weight: torch.Tensor, random: torch.Generator) -> Tensors:
    outputs, inputs = weight.shape
    values = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int64).to(torch.int8)
    return {f"{name}.weight": values, f"{name}.weight_scale": _scales((outputs, 1), random, torch.bfloat16, 127)}


def _int4(name: str, weight: torch.Tensor, random: torch.Generator) -> Tensors:
    outputs, inputs = weight.shape
    return {
        f"{name}.weight_packed": _words(outputs, inputs // 8, random),
        f"{name}.weight_scale": _scales((outputs, inputs // GROUP), random, torch.bfloat16, 8),
        f"{name}.weight_shape": torch.tensor([outputs, inputs], dtype=torch.int64),
    }


def _fp8(name: str, weight: torch.Tensor, random: torch.Generator) -> Tensors:
    values = torch.randn(tuple(weight.shape), generator=random).to(torch.float8_e4m3fn)
    return {f"{name}.weight": values, f"{name}.weight_scale": torch.tensor(0.05)}
