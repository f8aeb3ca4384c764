"""How the live weights of an AWQ layer on a CPU are filled from a checkpoint. Adapter to vLLM's CPU kernels for AWQ.

vLLM goes from AWQ's layout over GPTQ's to its kernels', one nibble at a time. Where both ends are known the way is
short: eight 4-bit values in each int32 change their order, and blocks of 16 output channels are moved together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm import _custom_ops as vllm_ops
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQMarlinLinearMethod

from pilotlight_engine.swap.mapped_weights import DTYPES, MappedWeights
from pilotlight_engine.swap.weight_steps import Scratch
from pilotlight_protocol.fingerprint import TensorEntry

PARAMETERS = ("qweight", "qzeros", "scales")
# Half of a small L2 cache: a block is moved and then reordered in several passes.
_BLOCK_BYTES = 256 << 10
# Two exchanges of neighbours, of bytes and then of nibbles, make 0 4 1 5 2 6 3 7 of AWQ's 0 1 2 3 4 5 6 7.
_EXCHANGES = ((0x0000FF00, 8), (0x00F000F0, 4))


@dataclass(frozen=True)
class AwqSources:
    """Names in the checkpoint, one of each per layer that is fused into this one.

    `qweight`: int32[inputs, outputs / 8]. `qzeros`: int32[groups, outputs / 8]. `scales`: [groups, outputs].
    """

    qweight: tuple[str, ...]
    qzeros: tuple[str, ...]
    scales: tuple[str, ...]


@dataclass(frozen=True)
class _AwqPack(ABC):
    """The live tensors of one layer, and where what they are made of comes from."""

    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    names: AwqSources

    @property
    def sources(self) -> tuple[str, ...]:
        return self.names.qweight + self.names.qzeros + self.names.scales

    @property
    def size_bytes(self) -> int:
        return int(self.qweight.nbytes + self.qzeros.nbytes + self.scales.nbytes)

    @abstractmethod
    def run(self, weights: MappedWeights, scratch: Scratch) -> None: ...

    def holds(self, weights: MappedWeights, scratch: Scratch) -> bool:
        live = (self.qweight, self.qzeros, self.scales)
        qweight, qzeros, scales = made = [torch.empty_like(tensor) for tensor in live]
        replace(self, qweight=qweight, qzeros=qzeros, scales=scales).run(weights, scratch)
        return all(torch.equal(one, other) for one, other in zip(live, made, strict=True))


class AwqFloatPack(_AwqPack):
    """For the kernel that multiplies in floating point.

    `qweight`: int32[outputs / 16, inputs * 2]. `qzeros`: int32[groups, outputs / 8]. `scales`: [groups, outputs].
    """

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        blocks = self.qweight.view(torch.int64)
        inputs = blocks.shape[1]
        at_once = max(8, _BLOCK_BYTES // (8 * inputs))
        row = 0
        for source in weights.tensors(self.names.qweight):
            pairs = source.view(torch.int64).t()
            for start in range(0, pairs.shape[0], at_once):
                part = pairs[start : start + at_once]
                block = blocks[row : row + part.shape[0]]
                block.copy_(part)
                _reorder(block.view(torch.int32), scratch)
                row += part.shape[0]
        torch.cat(weights.tensors(self.names.qzeros), dim=1, out=self.qzeros)
        _reorder(self.qzeros, scratch)
        torch.cat(weights.tensors(self.names.scales), dim=1, out=self.scales)


class AwqInt8Pack(_AwqPack):
    """For the kernel that multiplies in int8 (AMX). vLLM has an operator for it that reads AWQ's own layout."""

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        packed = vllm_ops.convert_weight_packed_scale_zp(
            _beside(weights.tensors(self.names.qweight)),
            _beside(weights.tensors(self.names.qzeros)),
            _beside(weights.tensors(self.names.scales)),
            vllm_ops.CPUQuantAlgo.AWQ,
        )
        for live, new in zip((self.qweight, self.qzeros, self.scales), packed, strict=True):
            live.copy_(new)


def is_awq(layer: Any) -> bool:
    return type(getattr(layer, "quant_method", None)) is AutoAWQMarlinLinearMethod


def step(layer: Any, entries: Mapping[str, Sequence[TensorEntry]]) -> AwqFloatPack | AwqInt8Pack | None:
    """How `PARAMETERS` of this layer are filled; None when it is no kind that is known here. `entries` by parameter."""
    kernel = layer.quant_method.kernel
    if type(kernel) is not CPUWNA16LinearKernel or not kernel.config.zero_points:
        return None
    inputs, outputs = kernel.config.partition_weight_shape
    groups = 1 if kernel.config.group_size == -1 else inputs // kernel.config.group_size
    widths = [entry.shape[1] * 8 for entry in entries["qweight"]]
    if sum(widths) != outputs or any(width % 16 for width in widths):
        return None
    for name, rows, dtype, per_column in (
        ("qweight", inputs, torch.int32, 8), ("qzeros", groups, torch.int32, 8),
        ("scales", groups, kernel.config.act_type, 1),
    ):  # fmt: skip
        found = [(entry.shape, DTYPES.get(entry.dtype)) for entry in entries[name]]
        if found != [((rows, width // per_column), dtype) for width in widths]:
            return None
    qweight, qzeros, scales = live = [layer._parameters[name].data for name in PARAMETERS]
    names = AwqSources(**{name: tuple(entry.name for entry in entries[name]) for name in PARAMETERS})
    if layer.use_w4a8:
        return AwqInt8Pack(qweight, qzeros, scales, names)
    shapes = [(outputs // 16, inputs * 2), (groups, outputs // 8), (groups, outputs)]
    if [tuple(tensor.shape) for tensor in live] != shapes or not all(tensor.is_contiguous() for tensor in live):
        return None
    return AwqFloatPack(qweight, qzeros, scales, names)


def _reorder(words: torch.Tensor, scratch: Scratch) -> None:
    """int32[rows, columns], in place: from AWQ's order of the eight values in a word to the plain one."""
    rows, columns = words.shape
    moved = scratch.matrix(rows, columns, torch.int32)
    for mask, distance in _EXCHANGES:
        torch.bitwise_right_shift(words, distance, out=moved)
        moved.bitwise_xor_(words).bitwise_and_(mask)
        words.bitwise_xor_(moved)
        words.bitwise_xor_(moved.bitwise_left_shift_(distance))


def _beside(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)
