"""LoRA's matrix products on a CPU, in place of vLLM's.

vLLM 0.32's own ones take, for a request without an adapter in a batch that has one, the adapter in the last place
(index -1 of a torch tensor): that request is then answered with somebody else's adapter. They also copy an adapter's
matrix for every token of a step, 1.9 GB for 2048 tokens of rank 16 in a model with 14336 wide layers. Here every
adapter's rows are multiplied at once, unless they are very few, and rows without one are left alone. Shapes and types
are vLLM's. `indices` may be more than the tokens (padding), or fewer (logits of a prompt, which no adapter changes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


def install() -> None:
    """From now on in this process."""
    for module in (lora_ops, punica_cpu):
        for kernel in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            setattr(module, kernel.__name__, kernel)


def bgmv_shrink(
    inputs: torch.Tensor, lora_a: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, scaling: float = 1.0
) -> None:
    """`inputs`: [tokens, in], `lora_a`: [adapters, 1, rank, in], `output`: float32[tokens, rank], `indices`:
    int[tokens], -1 for a row without an adapter, whose output is 0."""
    output.zero_()
    own = indices[: inputs.shape[0]]
    adapters = _distinct(own)
    if _is_by_row(own, adapters):
        product = _by_row(inputs, _matrices(lora_a, own), own)
        output[: len(own), : product.shape[1]] = scaling * product
        return
    for adapter, rows in _groups(own, adapters):
        weights = _matrix(lora_a, adapter, output.dtype)
        output[rows, : weights.shape[0]] = scaling * (inputs[rows].to(output.dtype) @ weights.T)


def bgmv_expand(
    inputs: torch.Tensor, lora_b: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, add_inputs: bool = True
) -> None:
    """`inputs`: float32[tokens, rank], `lora_b`: [adapters, 1, out, rank], `output`: [tokens, at least out]."""
    bgmv_expand_slice(inputs, lora_b, output, indices, 0, min(lora_b.shape[-2], output.shape[1]), add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As `bgmv_expand`, into `slice_size` columns of the output from `slice_offset` on."""
    columns = slice(slice_offset, slice_offset + slice_size)
    if not add_inputs:
        output[:, columns] = 0
    own = indices[: output.shape[0]]
    adapters = _distinct(own)
    if _is_by_row(own, adapters):
        output[: len(own), columns] += _by_row(inputs, _matrices(lora_b, own)[:, :slice_size], own).to(output.dtype)
        return
    for adapter, rows in _groups(own, adapters):
        weights = _matrix(lora_b, adapter, output.dtype)[:slice_size]
        output[rows, columns] += inputs[rows].to(output.dtype) @ weights.T


def _distinct(own: torch.Tensor) -> list[int]:
    found: list[int] = torch.unique(own).tolist()
    return found


def _is_by_row(own: torch.Tensor, adapters: list[int]) -> bool:
    """Whether a copy of its adapter's matrix for each row is less work than a product for each adapter: of a step that
    decodes for several adapters, a few rows each. (Measured: a product costs as much as two rows' copies.)"""
    return len(adapters) > 1 and len(own) <= 2 * len(adapters)


def _by_row(inputs: torch.Tensor, weights: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """`inputs`: [tokens, in], `weights`: [tokens, out, in]; float32[tokens, out], 0 for a row without an adapter,
    whatever the weights hold that stand in its place."""
    product = torch.bmm(weights.float(), inputs[: len(own)].float().unsqueeze(2)).squeeze(2)
    return torch.where((own >= 0).unsqueeze(1), product, 0.0)


def _groups(own: torch.Tensor, adapters: list[int]) -> Iterator[tuple[int, Any]]:
    """Each adapter of the batch, and its rows."""
    for adapter in adapters:
        if adapter >= 0:
            yield adapter, slice(len(own)) if len(adapters) == 1 else (own == adapter).nonzero().squeeze(1)


def _matrices(stacked: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """One for each row; of a row without an adapter any."""
    weights = stacked[own.clamp(min=0)]
    return weights.squeeze(1) if weights.dim() == 4 else weights


def _matrix(stacked: torch.Tensor, adapter: int, dtype: Any) -> torch.Tensor:
    weights = stacked[adapter]
    return (weights.squeeze(0) if weights.dim() == 3 else weights).to(dtype)
