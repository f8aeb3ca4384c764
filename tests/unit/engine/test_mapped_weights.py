from pathlib import Path

import torch

from pilotlight_engine.swap.mapped_weights import MappedWeights
from pilotlight_models.checkpoint import TensorPlace
from pilotlight_protocol.fingerprint import TensorEntry


def places(path: Path, *laid_out: tuple[str, tuple[int, int], int]) -> dict[str, TensorPlace]:
    """`(name, shape, first byte)` each, all bf16."""
    return {
        name: TensorPlace(TensorEntry(name, "BF16", shape), path, start, shape[0] * shape[1] * 2)
        for name, shape, start in laid_out
    }


def file_of(path: Path, values: torch.Tensor, offset: int) -> Path:
    path.write_bytes(b"\xff" * offset + values.view(torch.uint8).numpy().tobytes())
    return path


def test_a_tensor_is_what_its_place_says(tmp_path: Path) -> None:
    values = torch.arange(24).bfloat16()
    path = file_of(tmp_path / "w", values, offset=6)
    weights = MappedWeights(places(path, ("a", (2, 4), 6), ("b", (4, 4), 22)))
    a, b = weights.tensors(["a", "b"])
    assert torch.equal(a, values[:8].view(2, 4))
    assert torch.equal(b, values[8:].view(4, 4))


def test_neighbours_in_a_file_are_one_matrix_and_others_are_not(tmp_path: Path) -> None:
    values = torch.arange(32).bfloat16()
    path = file_of(tmp_path / "w", values, offset=6)
    other = file_of(tmp_path / "x", values, offset=6)
    laid_out = places(path, ("gate", (2, 4), 6), ("up", (4, 4), 22), ("apart", (1, 4), 62))
    weights = MappedWeights(laid_out | places(other, ("elsewhere", (4, 4), 22)))
    joined = weights.joined(["gate", "up"])
    assert joined is not None
    assert torch.equal(joined, values[:24].view(6, 4))
    alone = weights.joined(["up"])
    assert alone is not None
    assert torch.equal(alone, values[8:24].view(4, 4))
    for names in (["up", "gate"], ["up", "apart"], ["gate", "elsewhere"], ["gate", "gate"]):
        assert weights.joined(names) is None, names
