"""How one live weight of a vLLM model is filled from a checkpoint: copied, or packed for the CPU's matrix kernels.

Adapter to vLLM's unquantized layers and torch. A step changes its own layer's weights and nothing else, so that steps
may run in any order, side by side.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from vllm import _custom_ops as vllm_ops
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from pilotlight_engine.swap.mapped_weights import DTYPES, MappedWeights
from pilotlight_protocol.fingerprint import TensorEntry

# oneDNN packs a matrix column by column. Rows that are a multiple of this apart fall into the same few cache sets; on
# some CPUs packing them takes twice as long as when there are `_ROW_PADDING` more elements between them.
_ALIASING_BYTES = 2048
_ROW_PADDING = 16
_PROBED_COLUMNS = 8


class Step(Protocol):
    """`sources`: names of the checkpoint's tensors. `size_bytes`: of what is written."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def size_bytes(self) -> int: ...

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        """Whatever is raised, the layer must not be used any more."""

    def holds(self, weights: MappedWeights, scratch: Scratch) -> bool:
        """Whether the layer is as `run` would leave it: how vLLM loads this model is not ours to know."""


class Scratch(threading.local):
    """One growing buffer per thread, so that no page is touched for the first time twice."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, padding: int = 0) -> torch.Tensor:
        """`[rows, columns]`, any values, `padding` elements between the end of a row and the next."""
        stride = columns + padding
        length = rows * stride * dtype.itemsize
        if self._buffer.numel() < length:
            self._buffer = torch.empty(length, dtype=torch.uint8)
        return self._buffer[:length].view(dtype).view(rows, stride)[:, :columns]


@dataclass(frozen=True)
class Copy:
    """Live tensor <- the rows of `sources`, in this order. Rows beyond them (a padded vocabulary) stay as they are."""

    target: torch.Tensor
    sources: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return int(self.target.nbytes)

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        _fill(self.target, weights.tensors(self.sources))

    def holds(self, weights: MappedWeights, scratch: Scratch) -> bool:
        tensors = weights.tensors(self.sources)
        live = self.target[: sum(tensor.shape[0] for tensor in tensors)].split([tensor.shape[0] for tensor in tensors])
        return all(torch.equal(one, tensor.to(one)) for one, tensor in zip(live, tensors, strict=True))


@dataclass(frozen=True)
class Matrix:
    """A `[rows, columns]` weight <- the rows of `sources`, zeros after them (a padded vocabulary)."""

    rows: int
    columns: int
    dtype: torch.dtype
    sources: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return self.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return self.columns * int(self.dtype.itemsize)

    @property
    def aliases(self) -> bool:
        return self.row_bytes % _ALIASING_BYTES == 0

    def in_place(self, weights: MappedWeights) -> torch.Tensor | None:
        """The matrix as it lies in the file, where it lies there in one piece."""
        matrix = weights.joined(self.sources)
        return matrix if matrix is not None and matrix.shape[0] == self.rows else None

    def put_together(self, weights: MappedWeights, scratch: Scratch, padding: int) -> torch.Tensor:
        matrix = scratch.matrix(self.rows, self.columns, self.dtype, padding)
        filled = _fill(matrix, weights.tensors(self.sources))
        matrix[filled:].zero_()
        return matrix


@dataclass(frozen=True)
class _MatrixPack:
    """A layer whose weight its matrix kernel keeps packed."""

    layer: Any
    matrix: Matrix

    @property
    def sources(self) -> tuple[str, ...]:
        return self.matrix.sources

    @property
    def size_bytes(self) -> int:
        return self.matrix.size_bytes

    def holds(self, weights: MappedWeights, scratch: Scratch) -> bool:
        """Asked of the kernel, which does not show what it packed: every row of some columns."""
        matrix = self.matrix
        columns = torch.linspace(0, matrix.columns - 1, min(_PROBED_COLUMNS, matrix.columns)).long()
        chosen = torch.zeros(len(columns), matrix.columns, dtype=matrix.dtype)
        chosen[torch.arange(len(columns)), columns] = 1.0
        answer = self.layer.cpu_linear(chosen, self.layer.weight, None)
        expected = torch.cat([tensor[:, columns] for tensor in weights.tensors(matrix.sources)]).t()
        # A product with one is exact, but some kernels take the smallest numbers for zero.
        smallest = torch.finfo(matrix.dtype).tiny
        return bool(torch.allclose(answer[:, : expected.shape[1]], expected, rtol=0.0, atol=smallest))


class OneDnnPack(_MatrixPack):
    """A layer whose weight oneDNN keeps packed. Packed straight from the file where that is the faster way."""

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        layer, kept = self.layer, self.layer._parameters["weight"]
        straight = not (self.matrix.aliases and padding_pays())
        matrix = self.matrix.in_place(weights) if straight else None
        if matrix is None:
            matrix = self.matrix.put_together(weights, scratch, _ROW_PADDING)
        # Unless it is kept, the old packed weight is freed before the new one is made, which then takes its warm pages.
        layer.cpu_linear = None
        layer.weight = torch.nn.Parameter(matrix, requires_grad=False)
        layer.quant_method.process_weights_after_loading(layer)
        layer._parameters["weight"] = kept

    @property
    def packed(self) -> Any:
        """The multiplication by the packed weight, which holds it."""
        return self.layer.cpu_linear

    def put_back(self, packed: Any) -> None:
        self.layer.cpu_linear = packed


class SmallGemmPack(_MatrixPack):
    """A layer small enough for the kernel vLLM took from SGLang (AMX only); what that reads is written in place."""

    def run(self, weights: MappedWeights, scratch: Scratch) -> None:
        matrix = self.matrix.in_place(weights)
        if matrix is None:
            matrix = self.matrix.put_together(weights, scratch, padding=0)
        _closed_over(self.layer.cpu_linear, torch.Tensor).copy_(torch.ops._C.convert_weight_packed(matrix))


def steps(layer: Any, name: str, parameter: Any, entries: Sequence[TensorEntry]) -> list[Step]:
    """How this parameter is filled; empty when it is none of the kinds that are known here."""
    dtypes = {DTYPES.get(entry.dtype) for entry in entries}
    shapes = {entry.shape[1:] for entry in entries}
    rows = sum(entry.shape[0] for entry in entries if entry.shape)
    linear = getattr(layer, "cpu_linear", None)
    by_onednn = _closed_over(linear, vllm_ops.CPUDNNLGEMMHandler) is not None
    by_small_gemm = _calls(linear, "weight_packed_linear_cpu") and _closed_over(linear, torch.Tensor) is not None
    # Where oneDNN has no kernel for the dtype on this CPU (float16 without AVX512-FP16, bfloat16 without AVX-512), vLLM
    # multiplies with the plain weight: filling that is all there is to do.
    by_torch = _calls(linear, "linear") and not getattr(linear, "__closure__", None)
    # vLLM's kernels for AMX take the bias in float32, whatever it is in the checkpoint.
    for_amx = by_small_gemm or getattr(layer, "use_w4a8", False)
    widened = name == "bias" and for_amx and parameter.dtype == torch.float32
    if len(dtypes) != 1 or len(shapes) != 1 or not rows or not (widened or dtypes == {parameter.dtype}):
        return []
    sources = tuple(entry.name for entry in entries)
    method = type(getattr(layer, "quant_method", None))
    is_vocabulary = method is UnquantizedEmbeddingMethod
    found: list[Step] = []
    if parameter.numel():
        if parameter.shape[1:] != next(iter(shapes)) or not (
            rows == parameter.shape[0] or (is_vocabulary and rows < parameter.shape[0])
        ):
            return []
        found.append(Copy(parameter.data, sources))
    if name == "weight" and linear is not None and not (by_torch and found):
        if not (by_onednn or by_small_gemm) or method not in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
            return []
        matrix = Matrix(*_packed_shape(layer, is_vocabulary), parameter.dtype, sources)
        if (matrix.columns,) != next(iter(shapes)) or not (
            rows == matrix.rows or (is_vocabulary and rows < matrix.rows)
        ):
            return []
        found.append(OneDnnPack(layer, matrix) if by_onednn else SmallGemmPack(layer, matrix))
    return found


@functools.cache
def padding_pays() -> bool:
    """Whether this CPU packs rows that alias faster from a padded copy, the copying included. Measured once: ~10 ms."""
    rows, columns = 2048, _ALIASING_BYTES // 2
    plain = torch.zeros(rows, columns, dtype=torch.bfloat16)
    padded = Scratch()

    def straight() -> None:
        vllm_ops.create_onednn_mm(plain.t(), 1)

    def copied() -> None:
        matrix = padded.matrix(rows, columns, plain.dtype, _ROW_PADDING)
        matrix.copy_(plain)
        vllm_ops.create_onednn_mm(matrix.t(), 1)

    return _best_s(copied) < _best_s(straight)


def _best_s(work: Callable[[], None]) -> float:
    times: list[float] = []
    for _ in range(3):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return min(times)


def _packed_shape(layer: Any, is_vocabulary: bool) -> tuple[int, int]:
    if is_vocabulary:
        return layer.num_embeddings_per_partition, layer.embedding_dim
    return layer.output_size_per_partition, layer.input_size_per_partition


def _calls(function: Any, operator: str) -> bool:
    return operator in getattr(getattr(function, "__code__", None), "co_names", ())


def _closed_over(function: Any, kind: type) -> Any:
    for cell in getattr(function, "__closure__", None) or ():
        if isinstance(cell.cell_contents, kind):
            return cell.cell_contents
    return None


def _fill(target: torch.Tensor, sources: Sequence[torch.Tensor]) -> int:
    row = 0
    for source in sources:
        target[row : row + source.shape[0]].copy_(source)
        row += source.shape[0]
    return row
