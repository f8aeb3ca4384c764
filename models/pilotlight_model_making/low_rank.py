"""Low-rank adapters of a Llama: their training, their files in PEFT's layout, and a checkpoint they are merged into.

Deterministic for a given seed, thread count and CPU type. It reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pilotlight_model_making.byte_level_tokenizer import write_json
from pilotlight_model_making.llama import Llama
from pilotlight_model_making.training import Progress

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
IGNORED = -100
ADAPTER_FILE = "adapter_model.safetensors"


class LowRankLinear(nn.Module):  # type: ignore[misc]
    """`base(x) + scale · B(A(x))`; B starts at zero, so at first nothing is changed."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


def add_adapter(model: Llama, rank: int, alpha: float) -> None:
    """Freeze `model` and put an adapter beside each of its TARGETS."""
    model.requires_grad_(False)
    for block in model.blocks():
        for name in TARGETS:
            setattr(block.self_attn, name, LowRankLinear(getattr(block.self_attn, name), rank, alpha / rank))


def train_adapter(
    model: Llama, batches: Iterator[tuple[Tensor, Tensor]], steps: int, learning_rate: float, progress: Progress
) -> None:
    """Train what `add_adapter` has added. A batch: ids and labels, int64[rows, seq]; labels are IGNORED where
    nothing is to be learned."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 10) * (1.0 - step / steps)
        ids, labels = next(batches)
        taught = labels[:, 1:] != IGNORED
        logits = model.lm_head(model.hidden_states(ids[:, :-1])[taught])
        loss = F.cross_entropy(logits, labels[:, 1:][taught])
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        progress(step, sum(losses[-20:]) / len(losses[-20:]))


def write_adapter(folder: Path, model: Llama, base_name: str, rank: int, alpha: float) -> None:
    """Write `adapter_model.safetensors` (bfloat16) and `adapter_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.weight": parameter.detach().to(torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    (folder / ADAPTER_FILE).chmod(0o644)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
    }
    write_json(folder / "adapter_config.json", config)


def merged(tensors: dict[str, Tensor], adapter: Path, scale: float) -> dict[str, Tensor]:
    """A checkpoint's tensors with the adapter's weights added, in their own dtype. Raises KeyError: of another base."""
    factors = load_file(adapter / ADAPTER_FILE)
    result = dict(tensors)
    for name, down in factors.items():
        if name.endswith("lora_A.weight"):
            target = name.removeprefix("base_model.model.").removesuffix("lora_A.weight") + "weight"
            up = factors[name.replace("lora_A", "lora_B")]
            base = tensors[target]
            result[target] = (base.float() + up.float() @ down.float() * scale).to(base.dtype)
    return result
