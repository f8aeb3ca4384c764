"""AWQ's storage format, checked against a dequantizer that is written independently, bit by bit in plain Python."""

import pytest
import torch

from pilotlight_model_making.awq_packing import QuantizedWeight, pack, packed_tensors, quantize, unpack


def reference_dequantize(qweight, qzeros, scales, group_size):
    """Nibble `n` of word `w` belongs to column `8 w + (0, 2, 4, 6, 1, 3, 5, 7)[n]`, as AWQ's GEMM kernels read it."""
    columns_of_nibbles = (0, 2, 4, 6, 1, 3, 5, 7)
    inputs, words = len(qweight), len(qweight[0])
    result = [[0.0] * (words * 8) for _ in range(inputs)]
    for row in range(inputs):
        group = row // group_size
        for word in range(words):
            for nibble, column in enumerate(columns_of_nibbles):
                value = (qweight[row][word] % 2**32) // 16**nibble % 16
                zero = (qzeros[group][word] % 2**32) // 16**nibble % 16
                result[row][word * 8 + column] = (value - zero) * scales[group][word * 8 + column]
    return result


@pytest.mark.parametrize(("outputs", "inputs", "group_size"), [(8, 32, 32), (16, 64, 32), (32, 128, 64), (64, 64, 64)])
def test_packed_tensors_dequantize_to_the_weight_within_half_a_step(outputs, inputs, group_size) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))
    quantized = quantize(weight, group_size)
    tensors = packed_tensors("x", quantized)

    read_back = reference_dequantize(
        tensors["x.qweight"].tolist(), tensors["x.qzeros"].tolist(), tensors["x.scales"].tolist(), group_size
    )

    assert torch.equal(torch.tensor(read_back), quantized.dequantized())
    half_step = quantized.scales.float().repeat_interleave(group_size, dim=0) / 2
    # The zero point is rounded as well, so the ends of the range may lie up to one step outside it.
    inside = (quantized.values > 0) & (quantized.values < 15)
    assert torch.all((torch.tensor(read_back) - weight.t()).abs()[inside] <= (half_step * 1.001)[inside])
    assert torch.all((torch.tensor(read_back) - weight.t()).abs() <= half_step * 2.002)


def test_dtypes_and_shapes_are_those_of_the_format() -> None:
    tensors = packed_tensors("x", quantize(torch.randn(24, 64), 32))
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "x.qweight": ((64, 3), torch.int32),
        "x.qzeros": ((2, 3), torch.int32),
        "x.scales": ((2, 24), torch.float16),
    }


def test_unpack_returns_what_was_packed() -> None:
    values = torch.randint(0, 16, (5, 40), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(unpack(pack(values)), values)


def test_the_interleaved_order_of_one_word() -> None:
    assert pack(torch.arange(8, dtype=torch.int32)[None]).item() == 0x75316420


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("all zero", torch.zeros(8, 32)),
        ("all equal and positive", torch.full((8, 32), 3.0)),
        ("all equal and negative", torch.full((8, 32), -3.0)),
        ("tiny", torch.full((8, 32), 1e-6)),
    ],
)
def test_weights_without_a_range_give_finite_numbers(name, weight) -> None:
    restored = quantize(weight, 32).dequantized()
    assert torch.allclose(restored, weight.t(), atol=1e-2), name


def test_clipping_saturates_outliers_and_spends_the_steps_inside() -> None:
    weight = torch.linspace(-1, 1, 32).repeat(8, 1)
    weight[:, 0] = 10
    plain, clipped = quantize(weight, 32), quantize(weight, 32, torch.full((8, 1), 0.5))
    inside = slice(1, None)
    error_of = [(q.dequantized().t() - weight)[:, inside].abs().mean() for q in (plain, clipped)]
    assert error_of[1] < error_of[0]


@pytest.mark.parametrize("shape", [(8, 48), (12, 64)])
def test_a_weight_that_does_not_fit_is_refused_with_its_shape(shape) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} does not fit AWQ"):
        quantize(torch.zeros(shape), 64 if shape[1] == 64 else 32)


def test_dequantized_uses_the_scale_and_zero_of_each_group() -> None:
    weight = QuantizedWeight(
        values=torch.tensor([[1], [2], [3], [4]], dtype=torch.int32),
        zeros=torch.tensor([[1], [2]], dtype=torch.int32),
        scales=torch.tensor([[0.5], [2.0]], dtype=torch.float16),
    )
    assert weight.dequantized().tolist() == [[0.0], [0.5], [2.0], [4.0]]
