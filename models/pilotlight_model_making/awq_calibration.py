"""Activation-aware weight quantization (AWQ, https://arxiv.org/abs/2306.00978) of a small Llama.

Responsible for choosing, on calibration text, the per-channel scales and clipping ranges that lose the least, for
folding the scales into the layer before, and for writing the checkpoint. The storage format is `awq_packing`'s part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pilotlight_model_making.awq_packing import QuantizedWeight, packed_tensors, quantize
from pilotlight_model_making.checkpoint import write_checkpoint
from pilotlight_model_making.llama import Block, Llama

GROUP_SIZE = 64
#: How strongly activations shape the scales: 0 is plain rounding, 1 makes all scaled activations equally large.
_RATIOS = tuple(step / 10 for step in range(10))
#: Shares of a group's range that are tried; the rest saturates.
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True)
class _ScaledGroup:
    """Linears that read the same input, and what produces it and so takes up the inverse of the scales."""

    linears: tuple[nn.Linear, ...]
    source: nn.Module


def awq_config(group_size: int = GROUP_SIZE) -> dict[str, Any]:
    """Return the `quantization_config` of AWQ's GEMM format, as AutoAWQ writes it."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }


def quantize_llama(model: Llama, calibration: Tensor | None, folder: Path, group_size: int = GROUP_SIZE) -> None:
    """Write `model` to `folder` as an AWQ checkpoint; `model` itself stays as it is.

    Args:
        calibration: `int64[rows, row_tokens]`, text to measure activations on; None rounds without any search, which
            is fast and good enough for models without meaning.
    """
    if calibration is not None:
        model = copy.deepcopy(model)
    with torch.inference_mode():
        clips = {} if calibration is None else _search(model, calibration, group_size)
        tensors: dict[str, Tensor] = {}
        for name, tensor in model.state_dict().items():
            if ".layers." in name and tensor.ndim == 2:
                prefix = name.removesuffix(".weight")
                tensors |= packed_tensors(prefix, quantize(tensor, group_size, clips.get(prefix)))
            else:
                tensors[name] = tensor
    write_checkpoint(folder, model.shape, tensors, torch.float16, awq_config(group_size))


def _search(model: Llama, calibration: Tensor, group_size: int) -> dict[str, Tensor]:
    """Scale `model`'s weights in place and return the clip shares by linear layer's name."""
    inputs = _linear_inputs(model, calibration)
    for block in model.blocks():
        for group in _scaled_groups(block):
            # Folding keeps the block's function, so it does not change what the other groups read.
            _fold(group, _best_scales(group.linears, inputs[group.linears[0]], group_size))
    inputs = _linear_inputs(model, calibration)
    names = {module: name for name, module in model.named_modules()}
    return {names[linear]: _best_clip(linear.weight, seen, group_size) for linear, seen in inputs.items()}


def _scaled_groups(block: Block) -> Sequence[_ScaledGroup]:
    attention, mlp = block.self_attn, block.mlp
    return (
        _ScaledGroup((attention.q_proj, attention.k_proj, attention.v_proj), block.input_layernorm),
        # No group for o_proj: with grouped queries several of its inputs share one output of v_proj.
        _ScaledGroup((mlp.gate_proj, mlp.up_proj), block.post_attention_layernorm),
        _ScaledGroup((mlp.down_proj,), mlp.up_proj),
    )


def _linear_inputs(model: Llama, calibration: Tensor) -> dict[nn.Linear, Tensor]:
    """Return what each linear layer of a block reads from the calibration text, `float32[tokens, in]`."""
    seen: dict[nn.Linear, Tensor] = {}

    def remember(linear: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(linear, nn.Linear)
        seen[linear] = arguments[0].flatten(0, -2)

    linears = [module for block in model.blocks() for module in block.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(remember) for linear in linears]
    try:
        model.hidden_states(calibration)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _best_scales(linears: tuple[nn.Linear, ...], inputs: Tensor, group_size: int) -> Tensor:
    """Return the per-input scales, `float32[in]`, that lose the least in the linears' outputs."""
    magnitude = inputs.abs().mean(dim=0).clamp(min=1e-6)
    covariance = inputs.t() @ inputs
    best, least = torch.ones_like(magnitude), float("inf")
    for ratio in _RATIOS:
        scales = magnitude**ratio
        scales = scales / (scales.max() * scales.min()).sqrt()
        loss = 0.0
        for linear in linears:
            rounded = quantize(linear.weight * scales, group_size).dequantized().t() / scales
            loss += _output_error(rounded - linear.weight, covariance)
        if loss < least:
            best, least = scales, loss
    return best


def _fold(group: _ScaledGroup, scales: Tensor) -> None:
    for linear in group.linears:
        linear.weight.mul_(scales)
    weight = group.source.weight
    assert isinstance(weight, Tensor)
    weight.div_(scales if weight.ndim == 1 else scales[:, None])


def _best_clip(weight: Tensor, inputs: Tensor, group_size: int) -> Tensor:
    """Return `float32[out, groups]`: for each group the share of its range that loses the least in its own product."""
    outputs, width = weight.shape
    grouped_inputs = inputs.view(-1, width // group_size, group_size)
    covariance = torch.einsum("tgi,tgj->gij", grouped_inputs, grouped_inputs)
    best = torch.ones(outputs, width // group_size)
    least = torch.full_like(best, float("inf"))
    for share in _CLIPS:
        clip = torch.full_like(best, share)
        error = (_rounded(weight, group_size, clip) - weight).view(outputs, width // group_size, group_size)
        loss = torch.einsum("ogi,gij,ogj->og", error, covariance, error)
        best, least = torch.where(loss < least, clip, best), torch.minimum(loss, least)
    return best


def _rounded(weight: Tensor, group_size: int, clip: Tensor) -> Tensor:
    quantized: QuantizedWeight = quantize(weight, group_size, clip)
    return quantized.dequantized().t()


def _output_error(error: Tensor, covariance: Tensor) -> float:
    return float((error @ covariance * error).sum())
