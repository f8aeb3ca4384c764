"""What oneDNN keeps of a layer's weight: the layout is private, so the layer is asked for every row. Adapter to
vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from vllm import _custom_ops as vllm_ops

_ROWS_AT_ONCE = 512


def unpacked(layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """("packed.N", [up to 512, outputs]) in turn: products with one-hot vectors, which are exact."""
    handler = _handler(getattr(layer, "cpu_linear", None))
    if handler is None:
        return
    inputs = int(handler.k)
    dtype = layer.weight.dtype
    for start in range(0, inputs, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, inputs - start)
        chosen = torch.zeros(rows, inputs, dtype=dtype)
        chosen[torch.arange(rows), torch.arange(start, start + rows)] = 1.0
        yield f"packed.{start}", layer.cpu_linear(chosen, layer.weight, None)


def _handler(function: Any) -> Any:
    for cell in getattr(function, "__closure__", None) or ():
        if isinstance(cell.cell_contents, vllm_ops.CPUDNNLGEMMHandler):
            return cell.cell_contents
    return None
