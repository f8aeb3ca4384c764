"""Reads what a model's own files say about it: config, tensor inventory, quantization, dtype, context length."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pilotlight_protocol.fingerprint import (
    HeaderInvalid,
    TensorEntry,
    architecture_hash,
    merged_inventory,
    read_header,
    tensor_inventory,
)
from pilotlight_protocol.manifest import Manifest, ManifestFile
from pilotlight_store.errors import VerificationFailed
from pilotlight_store.transfer.names import Part

MAX_JSON_BYTES = 64 * 1024 * 1024
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license:\s*['\"]?([A-Za-z0-9.+ _-]{1,80})['\"]?\s*\n", re.MULTILINE)


def describe(
    folder: Path, files: Sequence[ManifestFile], source: str, revision: str, license_: str | None, part: Part = "all"
) -> Manifest:
    """The manifest of the model in `folder`; a part of one says nothing of an architecture.

    Raises VerificationFailed where its files contradict one another.
    """
    ordered = tuple(sorted(files, key=lambda file: file.name))
    if part != "all":
        return Manifest(files=ordered, license=license_, source=source, revision=revision)
    config = _json(folder / "config.json") or _json(folder / "adapter_config.json")
    if config is None:
        raise VerificationFailed(
            f"{source} has no config.json, so no engine could load it; give the model's own folder"
        )
    tensors = inventory(folder, files)
    quantization = quantization_of(config, {file.name for file in files})
    try:
        architecture = architecture_hash(config, tensors, quantization)
    except RecursionError as error:
        raise VerificationFailed(f"{source}: config.json is nested too deeply") from error
    return Manifest(
        files=ordered,
        architecture=architecture,
        quantization=quantization,
        dtype=dtype_of(config, tensors),
        context_length=context_length_of(config),
        license=license_ or _card_license(folder / "README.md"),
        source=source,
        revision=revision,
    )


def inventory(folder: Path, files: Sequence[ManifestFile]) -> tuple[TensorEntry, ...]:
    """All tensors of the model's safetensors files."""
    found: list[tuple[TensorEntry, ...]] = []
    for file in files:
        if file.name.endswith(".safetensors"):
            try:
                with (folder / file.name).open("rb") as weights:
                    found.append(tensor_inventory(read_header(weights), file.size_bytes))
            except HeaderInvalid as error:
                raise VerificationFailed(f"{file.name} is no valid safetensors file: {error}") from error
    try:
        return merged_inventory(found)
    except HeaderInvalid as error:
        raise VerificationFailed(str(error)) from error


def quantization_of(config: Mapping[str, Any], names: set[str]) -> str:
    """The method's name as the config says it, `none` without one (quant_method: transformers' key)."""
    stated = _inner(config).get("quantization_config") or config.get("quantization_config")
    stated = stated or config.get("compression_config")
    if isinstance(stated, Mapping):
        return str(stated.get("quant_method") or "unknown").lower()
    if "hf_quant_config.json" in names:
        return "modelopt"
    if "quantize_config.json" in names:
        return "gptq"
    return "awq" if "quant_config.json" in names else "none"


def dtype_of(config: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> str | None:
    """What the config says, else the floating-point type of most tensors."""
    for place in (config, _inner(config)):
        stated = place.get("dtype") or place.get("torch_dtype")
        if isinstance(stated, str):
            return stated
    counted = Counter(tensor.dtype for tensor in tensors if tensor.dtype in _DTYPES)
    return _DTYPES[counted.most_common(1)[0][0]] if counted else None


def context_length_of(config: Mapping[str, Any]) -> int | None:
    """In tokens, before any scaling the engine is asked for."""
    for place in (config, _inner(config)):
        for key in _LENGTH_KEYS:
            if type(place.get(key)) is int and place[key] > 0:
                return int(place[key])
    return None


def _inner(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else {}


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise VerificationFailed(f"{path.name} has more than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"{path.name} is no JSON") from error
    if not isinstance(value, dict):
        raise VerificationFailed(f"{path.name} is no JSON object")
    return value


def _card_license(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as card:
        match = _LICENSE.match(card.read(16_384))
    return match[1].strip() if match else None
