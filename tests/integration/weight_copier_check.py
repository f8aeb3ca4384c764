"""Compares the two ways to exchange an engine's weights, bit by bit, in a process of its own for each comparison.

    python weight_copier_check.py < orders

An order is a line of JSON: `models` (folders), their `dtype`, `environment` on top of this process's, and `out`, the
file for what the comparison says. The second model's weights are overwritten. An order is forked from this process,
which has imported vLLM; its exit status is printed.

Every live tensor, and what every packed layer answers, must be the same after vLLM's own reload as after the boot and,
where there is a plan, for each model in turn and back the same after `WeightCopier`. Prints `oneDNN: True|False`
(has it a kernel for DTYPE here?), then the way: `copied: KINDS OF STEPS` or `reloaded: WHY`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from vllm import _custom_ops as vllm_ops

from pilotlight_engine.boot import vllm_arguments
from pilotlight_engine.swap import weight_loading
from pilotlight_engine.vllm_adapter import vllm_engine
from pilotlight_models.checkpoint import read_checkpoint


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            obey(order)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def obey(order: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT, 0o600)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.environ.update(order["environment"])
        compare(order["dtype"], order["models"])
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def compare(dtype: str, paths: list[str]) -> None:
    fixed = {"model": paths[0], "tokenizer": paths[0], "served_model_name": "model"}
    arguments = [("enforce_eager", "true"), ("max_model_len", "256"), ("max_num_seqs", "2"), ("dtype", dtype)]
    engine = vllm_engine.VllmEngine(vllm_arguments.build(fixed, arguments), (), lambda phase: None)
    model, executor = engine._model(), engine._core.model_executor
    checkpoints = [read_checkpoint(Path(path)) for path in paths]
    booted = dict(state(model))
    expected = []
    for wanted in checkpoints:
        weight_loading.reload(executor, model, wanted)
        expected.append(dict(state(model)))
    assert any(not torch.equal(value, expected[1][name]) for name, value in expected[0].items())
    weight_loading.reload(executor, model, checkpoints[0])
    assert_same(model, booted, "vLLM's reload")
    print("oneDNN:", onednn_multiplies(getattr(torch, dtype)))
    try:
        copier = weight_loading.WeightCopier.plan(model, checkpoints[0].places, threads=2)
    except weight_loading.NoPlan as no_plan:
        print(f"reloaded: {no_plan}")
        return
    for index in [*range(len(paths)), *reversed(range(len(paths)))]:
        copier.copy(checkpoints[index])
        assert_same(model, expected[index], paths[index])
    keeping = weight_loading.WeightCopier.plan(model, checkpoints[0].places, threads=2, spare_bytes=1 << 30)
    for index in (1, 0, 1, 1, 0):
        keeping.copy(checkpoints[index])
        assert_same(model, expected[index], f"{paths[index]}, kept")
    shutil.copy(Path(paths[0]) / "model.safetensors", Path(paths[1]) / "model.safetensors")
    keeping.copy(read_checkpoint(Path(paths[1])))
    assert_same(model, expected[0], "files that are others now")
    engine.plan_swaps(spare_bytes=1 << 30)
    assert engine.describe({}).swap_path == "copied"
    print("copied:", *sorted({type(step).__name__ for step in copier.steps}))


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has a kernel for it on this CPU; where it has none, vLLM multiplies with the plain weight."""
    try:
        vllm_ops.create_onednn_mm(torch.zeros(256, 256, dtype=dtype).t(), 32)
    except RuntimeError:
        return False
    return True


def assert_same(model: torch.nn.Module, expected: dict[str, torch.Tensor], what: str) -> None:
    found = dict(state(model))
    assert found.keys() == expected.keys()
    wrong = [name for name, value in found.items() if not torch.equal(value, expected[name])]
    assert not wrong, f"{what}: {wrong}"


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
