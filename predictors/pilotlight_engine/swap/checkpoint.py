"""Reads what a model directory holds, not its weights: the names, shapes and places of its tensors, and their hash.

Adapter to the disk and the safetensors format. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight_engine import model_source
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.fingerprint import (
    HeaderInvalid,
    TensorEntry,
    architecture_hash,
    merged_inventory,
    read_header,
    tensor_spans,
)


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor's bytes are: `length` bytes from `start` of `file`."""

    entry: TensorEntry
    file: Path
    start: int
    length: int


@dataclass(frozen=True)
class Checkpoint:
    """`architecture`: fingerprint.architecture_hash. `places` by tensor name."""

    directory: Path
    architecture: str
    places: dict[str, TensorPlace]

    @property
    def inventory(self) -> Sequence[TensorEntry]:
        return sorted(place.entry for place in self.places.values())


def read(directory: Path) -> Checkpoint:
    """Raises InvalidInput, ModelNotFound (no such directory, no weights, a header that lies about its file)."""
    config = model_source.read_config(model_source.check_directory(directory))
    places: dict[str, TensorPlace] = {}
    inventories: list[Sequence[TensorEntry]] = []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            found = _places(path)
            inventories.append([place.entry for place in found])
            inventory = merged_inventory(inventories)
        except (OSError, HeaderInvalid) as error:
            raise InvalidInput(f"{path} cannot be loaded: {error}") from error
        places |= {place.entry.name: place for place in found}
    quantization = config.get("quantization_config")
    method = str(quantization.get("quant_method", "")) if isinstance(quantization, dict) else "none"
    return Checkpoint(directory, architecture_hash(config, inventory, method), places)


def read_inventory(directory: Path) -> list[TensorEntry]:
    """Every tensor of every file; one that two files have is there twice, since vLLM's index may choose between them.

    Raises InvalidInput for a header that lies about its file.
    """
    found: list[TensorEntry] = []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            found += [place.entry for place in _places(path)]
        except (OSError, HeaderInvalid) as error:
            raise InvalidInput(f"{path} cannot be loaded: {error}") from error
    return found


def _places(path: Path) -> list[TensorPlace]:
    with path.open("rb") as file:
        spans = tensor_spans(read_header(file), path.stat().st_size)
    return [TensorPlace(span.entry, path, span.start, span.end - span.start) for span in spans]
