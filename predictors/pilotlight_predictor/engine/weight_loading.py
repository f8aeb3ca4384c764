"""Exchanges the weights of a live vLLM model for those of another checkpoint of the same architecture.

vLLM's own `reload_weights` is right for most models and is what is used where nothing faster is known. For layers that
are copied or packed as a whole, `WeightCopier` does the same work without the per-tensor bookkeeping: each checkpoint
tensor goes from the mapped file into place once, fused layers are put together in a scratch buffer, and the layers are
shared out over threads. Adapter to vLLM and torch; it changes weights and nothing else of the engine.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pilotlight_protocol.fingerprint import TensorEntry
from vllm._custom_ops import CPUDNNLGEMMHandler
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from pilotlight_predictor.engine.checkpoint import Checkpoint, TensorPlace

# oneDNN packs a matrix column by column. Rows that are a power of two apart then fall into the same few cache sets:
# with 16 more elements between them packing was measured to take half the time (4 MB in 1.0 ms instead of 2.4 ms).
_ROW_PADDING = 16
_DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "I32": torch.int32, "I64": torch.int64,
    "I8": torch.int8, "U8": torch.uint8, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip


def reload(executor: Any, model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """vLLM's way, for everything `WeightCopier.plan` has no plan for."""
    executor.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.directory)})
    _repack_tied(model)


def _repack_tied(model: torch.nn.Module) -> None:
    # vLLM's reload reaches a tied weight through one of its layers only. On a CPU the other one, the head, keeps a
    # packed copy of its own, which would go on answering with the old model's logits.
    owners: dict[int, str] = {}
    for name, layer in model.named_modules():
        weight = layer._parameters.get("weight")
        if weight is None or not weight.numel():
            continue
        if owners.setdefault(id(weight), name) != name and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


@dataclass(frozen=True)
class _Copy:
    """Live tensor <- the rows of `sources`, in this order. Rows beyond them (a padded vocabulary) stay as they are."""

    target: torch.Tensor
    sources: tuple[str, ...]

    @property
    def elements(self) -> int:
        return int(self.target.numel())


@dataclass(frozen=True)
class _Pack:
    """A layer that keeps its `[rows, columns]` weight packed by oneDNN <- the rows of `sources`, zeros after them."""

    layer: Any
    rows: int
    columns: int
    dtype: torch.dtype
    sources: tuple[str, ...]

    @property
    def elements(self) -> int:
        return self.rows * self.columns


class WeightCopier:
    """What to copy where, found once per engine."""

    def __init__(self, steps: Sequence[_Copy | _Pack], threads: int) -> None:
        # The largest first: the threads then end at about the same time.
        self._steps = sorted(steps, key=lambda step: step.elements, reverse=True)
        self._threads = threads

    @classmethod
    def plan(cls, model: torch.nn.Module, places: Mapping[str, TensorPlace], threads: int) -> WeightCopier | None:
        """None unless every tensor of the checkpoint and every parameter of the model has its step."""
        fused: Mapping[str, Sequence[str]] = getattr(model, "packed_modules_mapping", {})
        steps: list[_Copy | _Pack] = []
        sources_of: dict[int, tuple[str, ...]] = {}
        for path, layer in model.named_modules():
            for name, parameter in layer._parameters.items():
                if parameter is None:
                    continue
                is_tied = id(parameter) in sources_of
                sources = sources_of.setdefault(id(parameter), _sources(path, name, fused))
                if not sources or not places.keys() >= set(sources):
                    return None
                found = _steps(layer, name, parameter, [places[source].entry for source in sources])
                if not found:
                    return None
                steps += [step for step in found if isinstance(step, _Pack) or not is_tied]
        used = {source for step in steps for source in step.sources}
        return cls(steps, threads) if used == places.keys() else None

    def copy(self, checkpoint: Checkpoint) -> None:
        """Returns when every weight is in place; whatever is raised, the model must not be used any more."""
        tensors = _mapped(checkpoint.places.values())
        scratch = _Scratch()
        with ThreadPoolExecutor(self._threads, "weights", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(_run, step, tensors, scratch) for step in self._steps]:
                done.result()
        if any(isinstance(step, _Copy) and step.target.is_cuda for step in self._steps):
            torch.cuda.synchronize()


class _Scratch(threading.local):
    """One growing buffer per thread, so that no page is touched for the first time twice."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """`[rows, columns]`, any values, rows `_ROW_PADDING` elements apart."""
        stride = columns + _ROW_PADDING
        length = rows * stride * dtype.itemsize
        if self._buffer.numel() < length:
            self._buffer = torch.empty(length, dtype=torch.uint8)
        return self._buffer[:length].view(dtype).view(rows, stride)[:, :columns]


def _sources(path: str, name: str, fused: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    parent, _, own = path.rpartition(".")
    prefix = f"{parent}." if parent else ""
    return tuple(f"{prefix}{part}.{name}" for part in fused.get(own, (own,)))


def _steps(layer: Any, name: str, parameter: Any, entries: Sequence[TensorEntry]) -> list[_Copy | _Pack]:
    """How this parameter is filled; empty when it is none of the kinds that are known here."""
    dtypes = {_DTYPES.get(entry.dtype) for entry in entries}
    shapes = {entry.shape[1:] for entry in entries}
    rows = sum(entry.shape[0] for entry in entries if entry.shape)
    if dtypes != {parameter.dtype} or len(shapes) != 1 or not rows:
        return []
    sources = tuple(entry.name for entry in entries)
    method = type(getattr(layer, "quant_method", None))
    is_vocabulary = method is UnquantizedEmbeddingMethod
    found: list[_Copy | _Pack] = []
    if parameter.numel():
        if parameter.shape[1:] != next(iter(shapes)) or not (
            rows == parameter.shape[0] or (is_vocabulary and rows < parameter.shape[0])
        ):
            return []
        found.append(_Copy(parameter.data, sources))
    if name == "weight" and hasattr(layer, "cpu_linear"):
        handler = _onednn_handler(layer.cpu_linear)
        if handler is None or method not in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod):
            return []
        if (handler.k,) != next(iter(shapes)) or not (rows == handler.n or (is_vocabulary and rows < handler.n)):
            return []
        found.append(_Pack(layer, handler.n, handler.k, parameter.dtype, sources))
    return found


def _onednn_handler(linear: Any) -> CPUDNNLGEMMHandler | None:
    for cell in getattr(linear, "__closure__", None) or ():
        if isinstance(cell.cell_contents, CPUDNNLGEMMHandler):
            return cell.cell_contents
    return None


def _run(step: _Copy | _Pack, tensors: Mapping[str, torch.Tensor], scratch: _Scratch) -> None:
    sources = [tensors[name] for name in step.sources]
    if isinstance(step, _Copy):
        _fill(step.target, sources)
        return
    layer, kept = step.layer, step.layer._parameters["weight"]
    weight = scratch.matrix(step.rows, step.columns, step.dtype)
    filled = _fill(weight, sources)
    weight[filled:].zero_()
    # The old packed weight is freed before the new one is made, which then takes its warm pages.
    layer.cpu_linear = None
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.quant_method.process_weights_after_loading(layer)
    layer._parameters["weight"] = kept


def _fill(target: torch.Tensor, sources: Sequence[torch.Tensor]) -> int:
    row = 0
    for source in sources:
        target[row : row + source.shape[0]].copy_(source)
        row += source.shape[0]
    return row


def _mapped(places: Iterable[TensorPlace]) -> dict[str, torch.Tensor]:
    """Tensors over the files' pages; they are read when they are copied."""
    tensors: dict[str, torch.Tensor] = {}
    by_file = sorted(places, key=lambda place: (place.file, place.start))
    for path, group in itertools.groupby(by_file, key=lambda place: place.file):
        data = _map(path)
        for place in group:
            flat = torch.frombuffer(data, dtype=torch.uint8, count=place.length, offset=place.start)
            tensors[place.entry.name] = flat.view(_DTYPES[place.entry.dtype]).view(place.entry.shape)
    return tensors


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        # Private and writable, though nothing writes: torch warns of a read-only buffer.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
