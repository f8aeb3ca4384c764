"""What a model's folder says, not its weights: config, the tensors' names, shapes and places, quantization, their hash.

The store's manifests, the pool and the engine host read it here, so that they cannot differ. Blocking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pilotlight_models.folder_files import INDEX_NAME, FileRefused, check_folder, read_object, read_weights_header
from pilotlight_models.pooling_files import PoolingFiles, read_pooling_files
from pilotlight_protocol.fingerprint import (
    MAX_TENSORS,
    HeaderInvalid,
    TensorEntry,
    architecture_hash,
    merged_inventory,
    tensor_spans,
)
from pilotlight_protocol.model_config import quantization_of

MAX_HEADERS_BYTES = 64 * 2**20
"""Of all files of a model together; a header takes many times its length in memory while it is parsed."""


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor's bytes are: `length` bytes from `start` of `file`."""

    entry: TensorEntry
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: of every file with weights; one that two files have is there twice, as vLLM loads it.
    `quantization`: the method's name, `none` without one. `pooling`: of a sentence-transformers model."""

    directory: Path
    config: dict[str, Any]
    quantization: str
    tensors: tuple[TensorPlace, ...]
    pooling: PoolingFiles | None = None

    @cached_property
    def inventory(self) -> tuple[TensorEntry, ...]:
        """Raises FileRefused for a tensor that two files have."""
        try:
            return merged_inventory([[place.entry for place in self.tensors]])
        except HeaderInvalid as error:
            raise FileRefused(str(error)) from error

    @cached_property
    def architecture(self) -> str:
        """fingerprint.architecture_hash, of how it pools as well. Raises FileRefused as `inventory` does."""
        config = self.config if self.pooling is None else {**self.config, "pooling": self.pooling.settings}
        return architecture_hash(config, self.inventory, self.quantization)

    @cached_property
    def places(self) -> dict[str, TensorPlace]:
        """By tensor name."""
        return {place.entry.name: place for place in self.tensors}


def read_checkpoint(directory: Path) -> Checkpoint:
    """Raises FileRefused: neither a model's config nor an adapter's, or a header that lies about its file."""
    files = {path.name: path for path in check_folder(directory)}
    config = read_object(directory / "config.json")
    if config is None and (config := read_object(directory / "adapter_config.json")) is None:
        raise FileRefused("there is no config.json, so this is not a Hugging Face checkpoint")
    found = sorted(path for path in files.values() if path.suffix == ".safetensors")
    tensors = tuple(_tensors(_loaded(directory, found)))
    return Checkpoint(directory, config, quantization_of(config, files), tensors, read_pooling_files(directory))


def adapter_rank(directory: Path) -> int:
    """A LoRA adapter's. Raises FileRefused."""
    rank = (read_object(directory / "adapter_config.json") or {}).get("r")
    if type(rank) is not int or rank < 1:
        raise FileRefused("adapter_config.json gives no rank")
    return rank


def _loaded(directory: Path, found: list[Path]) -> list[Path]:
    """Those an engine loads: the index's where there is one (vLLM does the same)."""
    index = read_object(directory / INDEX_NAME)
    if index is None:
        return found
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise FileRefused(f"{INDEX_NAME} has no weight_map")
    named = {name for name in weight_map.values() if isinstance(name, str)}
    if missing := named - {path.name for path in found}:
        raise FileRefused(f"{INDEX_NAME} names {min(missing)[:200]!r}, which is not there")
    return [path for path in found if path.name in named]


def _tensors(files: list[Path]) -> Iterator[TensorPlace]:
    left_bytes, left = MAX_HEADERS_BYTES, MAX_TENSORS
    for path in files:
        try:
            header, size_bytes = read_weights_header(path, left_bytes)
            spans = tensor_spans(header, size_bytes)
        except (FileNotFoundError, HeaderInvalid) as error:
            raise FileRefused(f"{path.name} is no valid safetensors file: {error}") from error
        left_bytes -= len(header)
        left -= len(spans)
        if left < 0:
            raise FileRefused(f"its files have more than {MAX_TENSORS} tensors")
        for span in spans:
            yield TensorPlace(span.entry, path, span.start, span.end - span.start)
