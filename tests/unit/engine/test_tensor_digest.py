"""Tensors with other bytes, or the same in another order, have another digest; how they lie in memory is not in it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_engine.swap import tensor_digest as module
from pilotlight_engine.swap.tensor_digest import tensor_digest

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int8, torch.uint8, torch.float8_e4m3fn)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=80), st.data())
def test_one_byte_more_or_less_or_elsewhere_is_told(values: list[int], data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.uint8)
    place, other = (data.draw(st.integers(0, len(values) - 1)) for _ in range(2))
    changed = tensor.clone()
    changed[place] += 1
    assert tensor_digest(changed) != tensor_digest(tensor)
    swapped = tensor.clone()
    swapped[place], swapped[other] = tensor[other], tensor[place]
    assert (tensor_digest(swapped) == tensor_digest(tensor)) == torch.equal(swapped, tensor)
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_has_one_and_strides_are_not_in_it(dtype: torch.dtype) -> None:
    matrix = torch.arange(6 * 5).view(6, 5).to(dtype)
    assert tensor_digest(matrix.t().contiguous().t()) == tensor_digest(matrix)
    assert tensor_digest(matrix.t()) != tensor_digest(matrix)


def test_two_flipped_signs_do_not_cancel_out() -> None:
    """In a plain weighted sum modulo 2^64 the highest bits of two words would."""
    words = torch.arange(64, dtype=torch.int64)
    flipped = words.clone()
    flipped[[3, 40]] ^= -(2**63)
    assert tensor_digest(flipped) != tensor_digest(words)


def test_chunks_have_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_WORDS", 4)
    words = torch.arange(12, dtype=torch.int64)
    assert tensor_digest(words) != tensor_digest(torch.cat([words[4:8], words[:4], words[8:]]))
    beginning, rest = words[:5].clone(), words[1:7]
    assert tensor_digest(rest) == tensor_digest(rest.clone())
    assert tensor_digest(beginning) != tensor_digest(rest)
    assert tensor_digest(torch.zeros(0)) == tensor_digest(torch.zeros(0, dtype=torch.int8))
