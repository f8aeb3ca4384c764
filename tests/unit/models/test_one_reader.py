"""The manifest of the store, the pool and the engine host say one thing of a model, however its folder is laid out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilotlight_engine.boot.checkpoint_check import reasons
from pilotlight_engine.quantization import checkpoint_format
from pilotlight_models import BUNDLED_MODELS, bundled_model_path
from pilotlight_models.checkpoint import MAX_HEADERS_BYTES, read_checkpoint
from pilotlight_models.folder_files import INDEX_NAME, FileRefused
from pilotlight_protocol.manifest import ManifestFile
from pilotlight_store.errors import VerificationFailed
from pilotlight_store.published.checkpoint import describe


def weights(path: Path, *names: str, padding: int = 0) -> None:
    entries: dict[str, Any] = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * at, 8 * at + 8]} for at, name in enumerate(names)
    }
    header = json.dumps(entries).encode() + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8 * len(names)))


def folder_of(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "odd", "dtype": "float32"} | config))
    return path


def whole(path: Path, config: dict[str, Any] | None = None) -> Path:
    weights(folder_of(path, config or {}) / "model.safetensors", "a", "b")
    return path


def sharded(path: Path) -> Path:
    """With a file beside the shards that no index names, as Mistral's repositories have it."""
    weights(folder_of(path, {}) / "model-1.safetensors", "a")
    weights(path / "model-2.safetensors", "b")
    weights(path / "consolidated.safetensors", "other.a", "other.b")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (path / INDEX_NAME).write_text(json.dumps(index))
    return path


def quantized_beside(path: Path) -> Path:
    (whole(path) / "quantize_config.json").write_text('{"bits": 4}')
    return path


def in_text_config(path: Path) -> Path:
    return whole(path, {"text_config": {"quantization_config": {"quant_method": "AWQ", "bits": 4}}})


def bundled(name: str) -> Callable[[Path], Path]:
    return lambda path: Path(shutil.copytree(bundled_model_path(name), path))


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "demo-awq": (bundled("demo-awq"), "awq"),
    "demo-bf16": (bundled("demo-bf16"), "none"),
    "one file": (whole, "none"),
    "index and shards": (sharded, "none"),
    "quantize_config.json": (quantized_beside, "gptq"),
    "text_config": (in_text_config, "awq"),
    "upper case": (lambda path: whole(path, {"quantization_config": {"quant_method": "GPTQ"}}), "gptq"),
    "no method": (lambda path: whole(path, {"quantization_config": {"bits": 4}}), "unknown"),
    "compression_config": (lambda path: whole(path, {"compression_config": {"quant_method": "fp8"}}), "fp8"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_manifest_and_host_say_the_same(tmp_path: Path, layout: str) -> None:
    make, quantization = LAYOUTS[layout]
    folder = make(tmp_path / "m")
    files = [ManifestFile(path.name, path.stat().st_size, "0" * 64) for path in folder.iterdir()]
    manifest = describe(folder, files, "somewhere", "", None)
    checkpoint = read_checkpoint(folder)
    assert (manifest.architecture, manifest.quantization) == (checkpoint.architecture, checkpoint.quantization)
    assert checkpoint.quantization == quantization
    method = checkpoint_format(checkpoint.config).method
    assert method in ("", quantization), "what vLLM is told comes from the same settings"


def test_the_demo_models_differ_and_are_sound() -> None:
    found = [read_checkpoint(bundled_model_path(name)) for name in BUNDLED_MODELS]
    assert len({checkpoint.architecture for checkpoint in found}) == len(found)
    for checkpoint in found:
        assert reasons(checkpoint.config, checkpoint.inventory) == ()


def test_how_tensors_are_spread_is_no_part_of_an_architecture(tmp_path: Path) -> None:
    one, many = read_checkpoint(whole(tmp_path / "one")), read_checkpoint(sharded(tmp_path / "many"))
    assert one.architecture == many.architecture
    assert {place.file.name for place in many.places.values()} == {"model-1.safetensors", "model-2.safetensors"}


def without_a_shard(folder: Path) -> None:
    (sharded(folder) / "model-2.safetensors").unlink()


def index_without_map(folder: Path) -> None:
    (sharded(folder) / INDEX_NAME).write_text("{}")


def twice(folder: Path) -> None:
    weights(whole(folder) / "more.safetensors", "a")


def cut(folder: Path) -> None:
    (whole(folder) / "model.safetensors").write_bytes(b"\x08")


def long_headers(folder: Path) -> None:
    for number in range(3):
        weights((folder if number else whole(folder)) / f"{number}.safetensors", padding=MAX_HEADERS_BYTES // 3)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_a_shard, "names 'model-2.safetensors', which is not there"),
        (index_without_map, "no weight_map"),
        (twice, "'a' is in two files"),
        (cut, r"model\.safetensors is no valid safetensors file"),
        (long_headers, r"2\.safetensors is no valid safetensors file: its header"),
        (lambda folder: folder.mkdir(), r"no config\.json"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused_by_both(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(tmp_path / "m")
    with pytest.raises(FileRefused, match=reason):
        _ = read_checkpoint(tmp_path / "m").architecture
    with pytest.raises(VerificationFailed, match=reason):
        describe(tmp_path / "m", [], "somewhere", "", None)
