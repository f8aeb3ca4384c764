"""A swap writes, bit by bit, what vLLM's own reload writes: every kind of layer that has a step of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("dtype", "packed", "options"),
    [
        ("float16", "AwqFloatPack", ("--preset", "demo", "--quantization", "awq")),
        ("bfloat16", "AwqInt8Pack" if AMX else "AwqFloatPack", ("--preset", "demo", "--quantization", "awq")),
        ("bfloat16", "SmallGemmPack" if AMX else "OneDnnPack", ("--preset", "tiny")),
        ("bfloat16", "OneDnnPack", ("--preset", "tiny", "--hidden", "1024", "--intermediate", "1536")),
    ],
    ids=["awq", "awq-bf16", "small", "large"],
)
def test_the_copier_writes_what_vllms_reload_writes(
    tmp_path: Path, dtype: str, packed: str, options: tuple[str, ...]
) -> None:
    models = tmp_path / "models"
    subprocess.run([sys.executable, str(MAKE), "--out", str(models), "--count", "2", *options], check=True, timeout=120)
    for weights in models.glob("*/model.safetensors") if dtype == "bfloat16" else ():
        tensors = load_file(weights)
        save_file({name: to_bf16(tensor) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    (tmp_path / "tmp").mkdir()
    environment = engine_environment(
        os.environ, tmp_path, cpus=2, preload=machine.cpu_preload(), eager=True
    ) | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # fmt: skip
    check = subprocess.run(
        [sys.executable, str(CHECK), dtype, *map(str, sorted(models.iterdir()))],
        check=False, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr[-4000:]
    assert packed in check.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
        ("Bloom", {"n_head": 4}),
    ],
)
def test_a_model_whose_loader_moves_rows_goes_vllms_way(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    """Its parameters have the names and shapes of the checkpoint's, and other rows."""
    import transformers

    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 2048} | options
    config = getattr(transformers, f"{kind}Config")(**shape)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).bfloat16()
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_model_path("demo-bf16") / name, tmp_path / "model")
    (tmp_path / "tmp").mkdir()
    environment = engine_environment(
        os.environ, tmp_path, cpus=2, preload=machine.cpu_preload(), eager=True
    ) | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # fmt: skip
    check = subprocess.run(
        [sys.executable, str(CHECK), "bfloat16", str(tmp_path / "model")],
        check=False, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert check.returncode == 1, check.stdout[-4000:]
    assert "no plan: this kind of model goes vLLM's way" in check.stderr, check.stderr[-4000:]


def to_bf16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float16 else tensor
