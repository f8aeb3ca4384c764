"""AWQ's 4-bit "GEMM" storage format: group quantization with zero points, and packing into int32.

Responsible for the arithmetic of one weight matrix. It reads no files and searches for nothing; choosing scales is
`awq_calibration`'s part. Format: one group is `group_size` inputs of one output channel, a stored value `q` stands for
`(q - zero) * scale`, and eight values share an int32 in the order that AWQ's kernels unpack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 4
LARGEST = 2**BITS - 1
VALUES_PER_WORD = 32 // BITS
#: The column that goes to bits 0-3, 4-7, … of a word (AWQ, "gemm" version).
PACK_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class QuantizedWeight:
    """Integers before packing: `values` int32[in, out], `zeros` int32[groups, out], `scales` float16[groups, out]."""

    values: Tensor
    zeros: Tensor
    scales: Tensor

    def dequantized(self) -> Tensor:
        """Return `float32[in, out]`."""
        group_size = self.values.shape[0] // self.scales.shape[0]
        zeros = self.zeros.repeat_interleave(group_size, dim=0)
        return (self.values - zeros).float() * self.scales.float().repeat_interleave(group_size, dim=0)


def quantize(weight: Tensor, group_size: int, clip: Tensor | None = None) -> QuantizedWeight:
    """Round `weight: float[out, in]` to 4 bits, per group of inputs.

    Args:
        group_size: inputs that share a scale and a zero point; must divide the number of inputs.
        clip: `float[out, groups]`, shares of the group's range that are kept; outside it values saturate.

    Raises:
        ValueError: the matrix does not fit the format.
    """
    outputs, inputs = weight.shape
    if inputs % group_size or outputs % VALUES_PER_WORD:
        raise ValueError(
            f"a weight of {outputs}x{inputs} does not fit AWQ: "
            f"inputs must be a multiple of {group_size} and outputs of {VALUES_PER_WORD}"
        )
    groups = weight.float().view(outputs, inputs // group_size, group_size)
    # Zero must be inside the range, or its zero point would not fit into 4 bits.
    high, low = groups.amax(dim=-1).clamp(min=0), groups.amin(dim=-1).clamp(max=0)
    if clip is not None:
        high, low = high * clip, low * clip
    # Rounded to the stored precision first, so that values are chosen for the scale that kernels will use. The floor
    # is float16's smallest normal number.
    scales = ((high - low) / LARGEST).clamp(min=2**-14).half()
    steps = scales.float()
    zeros = (-low / steps).round().clamp(0, LARGEST)
    values = (groups / steps[..., None] + zeros[..., None]).round().clamp(0, LARGEST)
    return QuantizedWeight(
        values=values.view(outputs, inputs).t().to(torch.int32).contiguous(),
        zeros=zeros.t().to(torch.int32).contiguous(),
        scales=scales.t().contiguous(),
    )


def pack(values: Tensor) -> Tensor:
    """Pack `int32[rows, columns]` of 4-bit values into `int32[rows, columns / 8]`."""
    words = torch.zeros(values.shape[0], values.shape[1] // VALUES_PER_WORD, dtype=torch.int32)
    for position, column in enumerate(PACK_ORDER):
        words |= values[:, column::VALUES_PER_WORD] << (BITS * position)
    return words


def unpack(words: Tensor) -> Tensor:
    """Return the `int32[rows, columns]` that `pack` packed."""
    values = torch.empty(words.shape[0], words.shape[1] * VALUES_PER_WORD, dtype=torch.int32)
    for position, column in enumerate(PACK_ORDER):
        values[:, column::VALUES_PER_WORD] = (words >> (BITS * position)) & LARGEST
    return values


def packed_tensors(prefix: str, weight: QuantizedWeight) -> dict[str, Tensor]:
    """Return the three tensors that a checkpoint has in place of `{prefix}.weight`."""
    return {
        f"{prefix}.qweight": pack(weight.values),
        f"{prefix}.qzeros": pack(weight.zeros),
        f"{prefix}.scales": weight.scales,
    }
