"""Every tensor and number that a loaded model computes with, by name: parameters, buffers, what a kernel has packed,
what vLLM has made of the weights after it loaded them and keeps as a plain attribute or in a closure.

Walks what hangs on the model's layers; must not change any of it. Adapter to torch's modules and vLLM's objects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch

from pilotlight_engine.swap.tensor_digest import tensor_digest
from pilotlight_protocol.swap_proofs import LiveTensor

# From a layer to what one of its kernels holds: layer, method, kernel, a container or closure, the tensor.
_DEEPEST = 6
# Keys and values of requests are no part of a model; configs hold every layer of it again.
_NOT_WEIGHTS = frozenset({"kv_cache", "kv_caches"})
# Of a handler there is only its address (see packed_layers); buffers of captured graphs hold the last request.
_NOT_WALKED = ("vllm.config", "vllm.compilation", "vllm._custom_ops")

_TORCHS_OWN = frozenset({"_parameters", "_buffers", "_modules", "training"})

Packed = Callable[[Any], Iterator[tuple[str, torch.Tensor]]]
"""What a layer's kernel holds in a form that shows itself only in what it answers; by name."""


def live_tensors(model: torch.nn.Module, packed: Packed = lambda layer: iter(())) -> tuple[LiveTensor, ...]:
    """In the order of the model's layers."""
    seen: dict[tuple[int, int, torch.Size, str], str] = {}
    found: list[LiveTensor] = []
    walked: set[int] = set()
    for path, layer in model.named_modules(remove_duplicate=False):
        for name, value in _held(layer, path, walked):
            found.append(_live(name, value, seen) if isinstance(value, torch.Tensor) else _number(name, value))
        for name, tensor in packed(layer):
            found.append(LiveTensor(f"{path}.{name}", str(tensor.dtype), tuple(tensor.shape), (), "", _digest(tensor)))
    return tuple(found)


def _held(layer: torch.nn.Module, path: str, walked: set[int]) -> Iterator[tuple[str, Any]]:
    prefix = f"{path}." if path else ""
    for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
        if tensor is not None and name not in _NOT_WEIGHTS:
            yield prefix + name, tensor
    for name, value in vars(layer).items():
        if name in _TORCHS_OWN or name in _NOT_WEIGHTS:
            continue
        if isinstance(value, bool):
            continue  # says how it is loaded (vLLM's reload leaves some behind), nothing is computed with it
        if isinstance(value, (int, float)):
            yield prefix + name, value
        else:
            yield from _tensors(prefix + name, value, walked, _DEEPEST)


def _tensors(name: str, value: Any, walked: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if not depth or isinstance(value, torch.nn.Module):
        return
    parts = _parts(value)
    if parts is None or id(value) in walked:
        return
    walked.add(id(value))
    for part, held in parts:
        if part not in _NOT_WEIGHTS:
            yield from _tensors(f"{name}.{part}", held, walked, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return iter([(str(key), held) for key, held in value.items()])
    if isinstance(value, (list, tuple)):
        return iter([(str(number), held) for number, held in enumerate(value)])
    if isinstance(value, functools.partial):
        return iter([("function", value.func), ("arguments", value.args), ("named", value.keywords)])
    if isinstance(value, (FunctionType, MethodType)):
        cells = value.__closure__ or ()
        named = zip(value.__code__.co_freevars, cells, strict=True)
        return iter([(name, cell.cell_contents) for name, cell in named if _is_filled(cell)])
    kind = type(value).__module__
    if kind.startswith("vllm") and not kind.startswith(_NOT_WALKED) and hasattr(value, "__dict__"):
        return iter(list(vars(value).items()))
    return None


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _live(name: str, tensor: torch.Tensor, seen: dict[tuple[int, int, torch.Size, str], str]) -> LiveTensor:
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    first = name
    if tensor.numel():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, str(tensor.dtype))
        first = seen.setdefault(place, name)
    own = first == name
    return LiveTensor(name, str(tensor.dtype), shape, strides, "" if own else first, _digest(tensor) if own else "")


def _number(name: str, value: float) -> LiveTensor:
    return LiveTensor(name, type(value).__name__, (), (), "", repr(value))


def _digest(tensor: torch.Tensor) -> str:
    return tensor_digest(tensor) if tensor.numel() else ""
