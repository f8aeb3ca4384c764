"""Proofs over real engines: what vLLM has loaded is told tensor by tensor, and a loader that breaks any is refuted."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from safetensors.torch import load_file, save_file

from pilotlight_engine.process import machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_models import bundled_model_path
from pilotlight_protocol.swap_proofs import EngineState, ProofStates, judge

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CHECK = Path(__file__).with_name("swap_proof_check.py")
DEADLINE_S = 120.0


class Engines:
    """A swap_proof_check.py, which has imported vLLM once for all."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def states(self, loader: str, *models: Path) -> list[EngineState]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out = self._folder / "states.json"
        order = {"models": [str(model) for model in models], "loader": loader, "out": str(out)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], DEADLINE_S)
        assert ready, f"no answer within {DEADLINE_S:g} s"
        assert self._process.stdout.readline() == "0\n", (self._folder / "said").read_text()[-4000:]
        return msgspec.json.decode(out.read_bytes(), type=list[EngineState])


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "tmp").mkdir()
    environment = engine_environment(
        os.environ, folder, cpus=2, preload=machine.cpu_preload(), eager=True
    ) | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # fmt: skip
    with (folder / "said").open("w") as said, subprocess.Popen(
        [sys.executable, str(CHECK)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
    ) as process:  # fmt: skip
        yield Engines(process, folder)
        process.kill()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo model and one of its shape in which every tensor is another."""
    first = bundled_model_path("demo-awq")
    other = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(first, other)
    for path in other.glob("*.safetensors"):
        tensors = {
            name: (tensor.roll(1, 0) if tensor.ndim > 1 else tensor * 1.25).contiguous()
            for name, tensor in load_file(path).items()
        }
        path.chmod(0o600)
        save_file(tensors, path, {"format": "pt"})
    return first, other


@pytest.fixture(scope="module")
def booted(engines: Engines, models: tuple[Path, Path]) -> tuple[EngineState, EngineState]:
    (a,), (b,) = (engines.states("WeightExchange", model) for model in models)
    return a, b


def proof(
    engines: Engines, models: tuple[Path, Path], booted: tuple[EngineState, EngineState], loader: str
) -> tuple[str, str, tuple[str, ...]]:
    before, swapped, back = engines.states(loader, *models)
    assert before.digest == booted[0].digest, "two boots of one model differ"
    return judge(ProofStates(before, booted[1], swapped, back))


def test_every_tensor_of_an_engine_is_told(booted: tuple[EngineState, EngineState]) -> None:
    a, b = booted
    names = {tensor.name for tensor in a.tensors}
    assert {"model.embed_tokens.weight", "model.norm.weight", "model.layers.3.mlp.down_proj.qzeros"} <= names
    assert any(name.endswith("cos_sin_cache") for name in names), "made after loading, and in no checkpoint"
    (head,) = (tensor for tensor in a.tensors if tensor.name == "lm_head.weight")
    assert head.alias_of == "model.embed_tokens.weight"
    assert not any("kv_cache" in name for name in names)
    others = {tensor.name: tensor.digest for tensor in b.tensors}
    changed = {tensor.name for tensor in a.tensors if tensor.digest != others[tensor.name]}
    assert {name for name in names if name.endswith(("qweight", "qzeros", "scales", "norm.weight"))} <= changed
    assert [len(answer.tokens) for answer in a.answers] == [12, 12, 12, 12]


def test_the_loader_is_proven(
    engines: Engines, models: tuple[Path, Path], booted: tuple[EngineState, EngineState]
) -> None:
    assert proof(engines, models, booted, "WeightExchange") == ("proven", "", ())


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ("LeavesOneBehind", "model.layers.1.self_attn.o_proj.qweight has other values"),
        ("ExchangesTwo", "model.layers.0.self_attn.o_proj.qweight has other values"),
        ("ForgetsWhatIsMadeAfterwards", "model.layers.0.mlp.down_proj.qzeros has other values"),
        ("BreaksTiedHeads", "lm_head.weight has memory of its own instead of model.embed_tokens.weight"),
    ],
)
def test_a_broken_one_is_refuted(
    engines: Engines,
    models: tuple[Path, Path],
    booted: tuple[EngineState, EngineState],
    loader: str,
    words: str,
) -> None:
    verdict, reason, found = proof(engines, models, booted, loader)
    assert (verdict, reason) == ("refuted", found[0])
    assert any(words in text for text in found), found
