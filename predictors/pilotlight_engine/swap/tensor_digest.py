"""A digest of a tensor's bytes in their order, computed where the tensor is: only sixteen bytes leave the device.

Every eight bytes are mixed with their place and summed, twice: integers, so that the order of the sum does not matter
and every device comes to the same. It tells tensors apart that differ by chance or by a bug, not by an adversary's
design. Adapter to torch.
"""

from __future__ import annotations

import functools

import torch

_WORD_BYTES = 8
# 32 MiB: a few times this is the scratch memory.
_CHUNK_WORDS = 4 << 20
_MASK = (1 << 64) - 1
# splitmix64 (Steele, Lea and Flood, 2014): each output bit depends on every input bit.
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def tensor_digest(tensor: torch.Tensor) -> str:
    """32 hex digits of the values in logical order: strides and shape are not in it."""
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    sums = [0, 0]
    for number, start in enumerate(range(0, data.numel(), _CHUNK_WORDS * _WORD_BYTES)):
        words = _words(data[start : start + _CHUNK_WORDS * _WORD_BYTES])
        keys = _keys(words.numel(), words.device) + _signed(number * _GOLDEN)
        mixed = _mix(words ^ keys)
        sums[0] += int(mixed.sum())
        sums[1] += int(_mix(mixed.add_(_signed(_GOLDEN))).sum())
    return "".join(f"{value & _MASK:016x}" for value in sums)


def _words(data: torch.Tensor) -> torch.Tensor:
    """uint8[n] as int64[ceil(n / 8)], zeros after the end."""
    rest = -data.numel() % _WORD_BYTES
    if rest or data.storage_offset() % _WORD_BYTES or data.data_ptr() % _WORD_BYTES:
        padded = torch.zeros(data.numel() + rest, dtype=torch.uint8, device=data.device)
        padded[: data.numel()] = data
        data = padded
    return data.view(torch.int64)


def _keys(words: int, device: torch.device) -> torch.Tensor:
    size = 1 << max(10, (words - 1).bit_length())
    return _all_keys(size, device)[:words]


@functools.lru_cache(maxsize=1)
def _all_keys(size: int, device: torch.device) -> torch.Tensor:
    return _mix(torch.arange(1, size + 1, dtype=torch.int64, device=device).mul_(_signed(_GOLDEN)))


def _mix(words: torch.Tensor) -> torch.Tensor:
    """In place."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        words.bitwise_xor_(_right(words, shift)).mul_(_signed(factor))
    return words.bitwise_xor_(_right(words, 31))


def _right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted as unsigned numbers are: torch shifts the sign in."""
    return (words >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
