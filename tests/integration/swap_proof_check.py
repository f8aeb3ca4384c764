"""Boots an engine with one of several loaders, examines it before and after a swap both ways, writes what it found.

    python swap_proof_check.py < orders

An order is a line of JSON: `models` (one folder, or two to swap between), `loader` (of LOADERS), and `out`, the file
for the engine's states as JSON. Each is carried out in a fork of this process, which has imported vLLM; its exit status
is printed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import torch

from pilotlight_engine.boot import vllm_arguments
from pilotlight_engine.vllm_adapter import vllm_engine
from pilotlight_engine.vllm_adapter.weight_exchange import WeightExchange
from pilotlight_models.checkpoint import Checkpoint


class Broken(WeightExchange):
    """Loads as it should, but for what a subclass breaks around it."""

    def load(self, model: Any, executor: Any, wanted: Checkpoint) -> None:
        with self.breaking(model):
            super().load(model, executor, wanted)

    @contextmanager
    def breaking(self, model: Any) -> Iterator[None]:
        yield


class LeavesOneBehind(Broken):
    @contextmanager
    def breaking(self, model: Any) -> Iterator[None]:
        left = model.model.layers[1].self_attn.o_proj.qweight.data
        old = left.clone()
        yield
        left.copy_(old)


class ExchangesTwo(Broken):
    @contextmanager
    def breaking(self, model: Any) -> Iterator[None]:
        yield
        one, other = (model.model.layers[number].self_attn.o_proj.qweight.data for number in (0, 1))
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)


class ForgetsWhatIsMadeAfterwards(Broken):
    """vLLM makes the zeros of a layer anew after it has loaded them."""

    @contextmanager
    def breaking(self, model: Any) -> Iterator[None]:
        made = model.model.layers[0].mlp.down_proj.qzeros.data
        old = made.clone()
        yield
        made.copy_(old)


class BreaksTiedHeads(Broken):
    @contextmanager
    def breaking(self, model: Any) -> Iterator[None]:
        yield
        head = model.lm_head
        head.weight = torch.nn.Parameter(head.weight.data.clone(), requires_grad=False)


LOADERS: dict[str, type[WeightExchange]] = {
    loader.__name__: loader
    for loader in (
        WeightExchange, LeavesOneBehind, ExchangesTwo, ForgetsWhatIsMadeAfterwards, BreaksTiedHeads,
    )
}  # fmt: skip


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            obey(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def obey(order: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        examine(order)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def examine(order: dict[str, Any]) -> None:
    os.dup2(2, 1)
    first, *others = (Path(model) for model in order["models"])
    fixed = {"model": str(first), "tokenizer": str(first), "served_model_name": "model"}
    arguments = [("enforce_eager", "true"), ("max_model_len", "512"), ("max_num_seqs", "2")]
    engine = vllm_engine.VllmEngine(
        vllm_arguments.build(fixed, arguments), (), lambda phase: None, exchange=LOADERS[order["loader"]]
    )
    states = [engine.examine()]
    assert engine.examine().digest == states[0].digest, "an examination changes the engine"
    for model in (*others, *([first] if others else [])):
        engine.swap(model, "model")
        states.append(engine.examine())
    Path(order["out"]).write_bytes(msgspec.json.encode(states))


if __name__ == "__main__":
    main()
