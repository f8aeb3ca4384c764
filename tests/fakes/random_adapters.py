"""LoRA adapters of the demo model with random weights, and what the demo model says with them, in plain torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pilotlight_model_making.checkpoint import read_llama
from pilotlight_models import bundled_model_path

BASE = bundled_model_path("demo-bf16")
# A token whose logit is this close to the highest may be chosen as well: the engine computes in bf16.
NEAR_TIE = 0.25
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Tensors = dict[str, torch.Tensor]


def write_adapter(
    folder: Path,
    seed: int,
    *,
    rank: int = 8,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    **config: Any,
) -> Path:
    """`change`: what is wrong with its weights; `config`: with its adapter_config.json."""
    folder.mkdir(parents=True)
    generator, tensors = torch.Generator().manual_seed(seed), Tensors()
    for name, weight in _projections().items():
        layer, (outputs, inputs) = f"base_model.model.{name.removesuffix('.weight')}", weight.shape
        tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.05
        tensors[f"{layer}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.05
    save_file(change(tensors), folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(_TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    return folder


def could_say(adapter: Path | None, prompt: list[int], tokens: list[int]) -> bool:
    """Whether this is a greedy continuation of the prompt by the base with the adapter merged into its weights."""
    logits = _logits(adapter, prompt + tokens)[len(prompt) - 1 : -1]
    said = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return bool((logits.max(dim=1).values - said <= NEAR_TIE).all())


def logprobs_of(adapter: Path | None, tokens: list[int]) -> list[float]:
    """Of each token after those before it, but for the first."""
    logprobs = torch.log_softmax(_logits(adapter, tokens)[:-1], dim=1)
    found: list[float] = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return found


def _logits(adapter: Path | None, tokens: list[int]) -> torch.Tensor:
    """float32[tokens, vocabulary]"""
    model = read_llama(BASE)
    if adapter is not None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        halves = load_file(adapter / "adapter_model.safetensors")
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        for name, parameter in model.named_parameters():
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{layer}.lora_A.weight" in halves:
                a, b = halves[f"{layer}.lora_A.weight"], halves[f"{layer}.lora_B.weight"]
                parameter.data = parameter.data + scale * (b @ a)
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0].float()


def _projections() -> Tensors:
    return {name: weight for name, weight in load_file(BASE / "model.safetensors").items() if "_proj." in name}
