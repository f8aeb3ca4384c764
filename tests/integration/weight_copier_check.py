"""Compares the two ways to exchange an engine's weights, bit by bit, in a process of its own.

    python weight_copier_check.py DTYPE MODEL MODEL…

For each model, in turn and back: every live tensor, and what every packed layer answers, must be the same after
`WeightCopier` as after vLLM's own reload. Prints the kinds of the copier's steps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pilotlight_engine.boot import vllm_arguments
from pilotlight_engine.swap import checkpoint, weight_loading
from pilotlight_engine.vllm_adapter import vllm_engine


def main() -> None:
    dtype, *paths = sys.argv[1:]
    fixed = {"model": paths[0], "tokenizer": paths[0], "served_model_name": "model"}
    arguments = [("enforce_eager", "true"), ("max_model_len", "256"), ("max_num_seqs", "2"), ("dtype", dtype)]
    engine = vllm_engine.VllmEngine(vllm_arguments.build(fixed, arguments), (), lambda phase: None)
    model, executor = engine._model(), engine._core.model_executor
    checkpoints = [checkpoint.read(Path(path)) for path in paths]
    copier = weight_loading.WeightCopier.plan(model, checkpoints[0].places, threads=2)
    assert copier is not None, "no plan: this kind of model goes vLLM's way"
    expected = []
    for wanted in checkpoints:
        weight_loading.reload(executor, model, wanted)
        expected.append(dict(state(model)))
    assert any(not torch.equal(value, expected[1][name]) for name, value in expected[0].items())
    for index in [*range(len(paths)), *reversed(range(len(paths)))]:
        copier.copy(checkpoints[index])
        found = dict(state(model))
        assert found.keys() == expected[index].keys()
        wrong = [name for name, value in found.items() if not torch.equal(value, expected[index][name])]
        assert not wrong, f"{paths[index]}: {wrong}"
    print(*sorted({type(step).__name__ for step in copier._steps}))


def state(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, layer in model.named_modules():
        parameters = {name: value for name, value in layer._parameters.items() if value is not None}
        for name, value in parameters.items():
            yield f"{path}.{name}", value.data.clone()
        if hasattr(layer, "cpu_linear"):
            yield f"{path}()", answer(layer)


def answer(layer: Any) -> torch.Tensor:
    columns = getattr(layer, "input_size_per_partition", None) or layer.embedding_dim
    x = torch.linspace(-1.0, 1.0, 4 * columns).view(4, columns).to(layer.weight.dtype)
    y: torch.Tensor = layer.cpu_linear(x, layer.weight, getattr(layer, "bias", None))
    return y


if __name__ == "__main__":
    main()
