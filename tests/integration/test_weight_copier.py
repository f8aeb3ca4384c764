"""A swap writes, bit by bit, what vLLM's own reload writes: every kind of layer that has a step of its own."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pilotlight_engine.process import machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_models import bundled_model_path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MAKE = Path(__file__).parents[2] / "scripts" / "make_models.py"
CHECK = Path(__file__).with_name("weight_copier_check.py")
# Where a CPU has AMX, vLLM packs small bf16 layers, and AWQ layers that compute in bf16, for kernels of their own.
AMX = torch.cpu._is_amx_tile_supported()


# oneDNN's kernels as on another CPU: AMD's EPYC (Zen 4) has bfloat16 and no float16 in AVX-512, older ones AVX2 alone.
EPYC, AVX2 = "AVX512_CORE_BF16", "AVX2"
DEADLINE_S = 240.0
AWQ = ("--preset", "demo", "--quantization", "awq")


class Checker:
    """A weight_copier_check.py, which has imported vLLM once for all."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def check(self, out: Path, dtype: str, *models: Path, isa: str = "DEFAULT") -> list[str]:
        """What it says of oneDNN and of the way, with no more of the CPU than `isa` for oneDNN."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"models": [str(model) for model in models], "dtype": dtype, "out": str(out)}
        self._process.stdin.write(json.dumps(order | {"environment": {"ONEDNN_MAX_CPU_ISA": isa}}) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], DEADLINE_S)
        said = out.read_text(errors="replace") if out.exists() else ""
        assert ready, f"no answer within {DEADLINE_S:g} s\n{said[-4000:]}"
        assert self._process.stdout.readline() == "0\n", said[-4000:]
        return [line for line in said.splitlines() if line.startswith(("oneDNN: ", "copied: ", "reloaded: "))]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checker]:
    folder = tmp_path_factory.mktemp("checker")
    (folder / "tmp").mkdir()
    environment = engine_environment(
        os.environ, folder, cpus=2, preload=machine.cpu_preload(), eager=True
    ) | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # fmt: skip
    with subprocess.Popen(
        [sys.executable, str(CHECK)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Checker(process)
        process.kill()


@pytest.mark.parametrize(
    ("dtype", "awq", "small", "isa", "options"),
    [
        ("float16", "AwqFloatPack", False, "DEFAULT", AWQ),
        ("float16", "AwqFloatPack", False, EPYC, AWQ),
        ("bfloat16", "AwqInt8Pack" if AMX else "AwqFloatPack", False, "DEFAULT", AWQ),
        ("bfloat16", None, AMX, "DEFAULT", ("--preset", "tiny")),
        ("bfloat16", None, AMX, AVX2, ("--preset", "tiny")),
        ("bfloat16", None, False, "DEFAULT", ("--preset", "tiny", "--hidden", "1024", "--intermediate", "1536")),
    ],
    ids=["awq", "awq-epyc", "awq-bf16", "small", "small-avx2", "large"],
)
def test_the_copier_writes_what_vllms_reload_writes(
    checker: Checker, tmp_path: Path, dtype: str, awq: str | None, small: bool, isa: str, options: tuple[str, ...]
) -> None:
    models = tmp_path / "models"
    subprocess.run([sys.executable, str(MAKE), "--out", str(models), "--count", "2", *options], check=True, timeout=120)
    for weights in models.glob("*/model.safetensors") if dtype == "bfloat16" else ():
        tensors = load_file(weights)
        save_file({name: to_bf16(tensor) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    onednn, way = checker.check(tmp_path / "said", dtype, *sorted(models.iterdir()), isa=isa)
    linear = "SmallGemmPack" if small else "OneDnnPack" if onednn == "oneDNN: True" else None
    if isa != "DEFAULT":
        assert onednn == "oneDNN: False", "the mask masks nothing"
    kind, _, steps = way.partition(": ")
    assert kind == "copied", way
    assert {awq, linear} - {None} <= set(steps.split()), way
    assert linear is not None or not {"SmallGemmPack", "OneDnnPack"} & set(steps.split()), way


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
        ("Bloom", {"n_head": 4}),
    ],
)
def test_a_model_whose_loader_moves_rows_goes_vllms_way(
    checker: Checker, tmp_path: Path, kind: str, options: dict[str, object]
) -> None:
    """Its parameters have the names and shapes of the checkpoint's, and other rows. vLLM's way is exact, too."""
    import transformers

    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 2048} | options
    config = getattr(transformers, f"{kind}Config")(**shape)
    models = [tmp_path / "one", tmp_path / "other"]
    for folder in models:
        getattr(transformers, f"{kind}ForCausalLM")(config).bfloat16().save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(bundled_model_path("demo-bf16") / name, folder)
    _, way = checker.check(tmp_path / "said", "bfloat16", *models)
    assert re.fullmatch(r"reloaded: vLLM changes \S+ while it loads it", way)


def to_bf16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float16 else tensor
