"""LoRA's matrix products on a CPU, in place of vLLM's.

vLLM 0.32's own ones take, for a request without an adapter in a batch that has one, the adapter in the last place
(index -1 of a torch tensor): that request is then answered with somebody else's adapter. They also copy an adapter's
matrix for every token of a step, 1.9 GB for 2048 tokens of rank 16 in a model with 14336 wide layers. Here a
step's rows are multiplied adapter by adapter or, when they are few, with every adapter, and each keeps its own product;
rows without an adapter are left alone. Layers that no loaded adapter changes are not multiplied at all.

Shapes and types are vLLM's. `indices` may be more than the tokens (padding), or fewer (logits of a prompt, which no
adapter changes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


def install() -> None:
    """From now on in this process."""
    for module in (lora_ops, punica_cpu):
        for kernel in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            setattr(module, kernel.__name__, kernel)


def watch(model: torch.nn.Module) -> None:
    """Know from now on which matrices of `model` are all zero: vLLM writes an adapter through these methods only."""
    for layer in model.modules():
        stacks = [*_stacks(layer, "lora_a_stacked"), *_stacks(layer, "lora_b_stacked")]
        if stacks:
            _note(stacks)
            for method in ("set_lora", "reset_lora"):
                setattr(layer, method, _noting(getattr(layer, method), stacks))


_zero: set[int] = set()
"""Addresses of matrices of this process that are all zero."""


def _stacks(layer: Any, name: str) -> Sequence[torch.Tensor]:
    found = getattr(layer, name, ())
    return (found,) if isinstance(found, torch.Tensor) else tuple(found)


def _note(stacks: Sequence[torch.Tensor]) -> None:
    for stacked in stacks:
        if bool(stacked.any()):
            _zero.discard(stacked.data_ptr())
        else:
            _zero.add(stacked.data_ptr())


def _noting(method: Callable[..., None], stacks: Sequence[torch.Tensor]) -> Callable[..., None]:
    def noting(*arguments: Any, **named: Any) -> None:
        _zero.difference_update(stacked.data_ptr() for stacked in stacks)
        method(*arguments, **named)
        _note(stacks)

    return noting


def bgmv_shrink(
    inputs: torch.Tensor, lora_a: torch.Tensor, output: torch.Tensor, indices: torch.Tensor, scaling: float = 1.0
) -> None:
    """`inputs`: [tokens, in], `lora_a`: [adapters, 1, rank, in], `output`: float32[tokens, rank], `indices`:
    int[tokens], -1 for a row without an adapter, whose output is 0."""
    output.zero_()
    if lora_a.data_ptr() in _zero:
        return
    own = indices[: inputs.shape[0]]
    adapters = _distinct(own)
    if _are_few(own, adapters, lora_a):
        product = _own_products(inputs, lora_a, own, output.dtype)
        output[: len(own), : product.shape[1]] = product * scaling
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
    if lora_b.data_ptr() in _zero:
        return
    own = indices[: output.shape[0]]
    adapters = _distinct(own)
    if _are_few(own, adapters, lora_b):
        output[: len(own), columns] += _own_products(inputs, lora_b, own, output.dtype)[:, :slice_size]
        return
    for adapter, rows in _groups(own, adapters):
        weights = _matrix(lora_b, adapter, output.dtype)[:slice_size]
        output[rows, columns] += inputs[rows].to(output.dtype) @ weights.T


def _distinct(own: torch.Tensor) -> list[int]:
    found: list[int] = torch.unique(own).tolist()
    return found


def _are_few(own: torch.Tensor, adapters: list[int], stacked: torch.Tensor) -> bool:
    """Whether one product with all adapters, of which each row needs one, is less work than a product for each adapter:
    of a step that decodes for most of the places there are, a few rows each."""
    return len(adapters) > 1 and stacked.shape[0] <= 2 * len(adapters) and len(own) <= 4 * len(adapters)


def _own_products(inputs: torch.Tensor, stacked: torch.Tensor, own: torch.Tensor, dtype: Any) -> torch.Tensor:
    """`inputs`: [tokens, in], `stacked`: [adapters, 1, out, in]; [tokens, out], 0 for a row without an adapter."""
    adapters, out = stacked.shape[0], stacked.shape[-2]
    every = inputs[: len(own)].to(dtype) @ stacked.reshape(adapters * out, -1).to(dtype).T
    chosen = every.view(len(own), adapters, out)[torch.arange(len(own)), own.clamp(min=0)]
    return torch.where((own >= 0).unsqueeze(1), chosen, 0.0)


def _groups(own: torch.Tensor, adapters: list[int]) -> Iterator[tuple[int, Any]]:
    """Each adapter of the batch, and its rows."""
    for adapter in adapters:
        if adapter >= 0:
            yield adapter, slice(len(own)) if len(adapters) == 1 else (own == adapter).nonzero().squeeze(1)


def _matrix(stacked: torch.Tensor, adapter: int, dtype: Any) -> torch.Tensor:
    weights = stacked[adapter]
    return (weights.squeeze(0) if weights.dim() == 3 else weights).to(dtype)
