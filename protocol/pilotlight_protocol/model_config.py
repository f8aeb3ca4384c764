"""What a model's config.json says: quantization, dtype, context length. Pure: the parsed object comes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pilotlight_protocol.fingerprint import TensorEntry

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
QUANTIZATION_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Where tools wrote the settings before config.json had a place for them, and whose they are."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A multimodal model's part about text; empty for all others."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else {}


def quantization_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """transformers' `quantization_config`, wherever it stands; empty for a model that is not quantized."""
    for stated in (
        text_config(config).get("quantization_config"),
        config.get("quantization_config"),
        config.get("compression_config"),
    ):
        if isinstance(stated, Mapping) and stated:
            return stated
    return {}


def quantization_of(config: Mapping[str, Any], names: Collection[str]) -> str:
    """The method's name, `none` without one. `names`: of the files beside config.json."""
    if stated := quantization_settings(config):
        return str(stated.get("quant_method") or "unknown").lower()
    return next((method for name, method in QUANTIZATION_FILES.items() if name in names), "none")


def dtype_of(config: Mapping[str, Any], tensors: Sequence[TensorEntry]) -> str | None:
    """What the config says, else the floating-point type of most tensors."""
    for place in (config, text_config(config)):
        stated = place.get("dtype") or place.get("torch_dtype")
        if isinstance(stated, str):
            return stated
    counted = Counter(tensor.dtype for tensor in tensors if tensor.dtype in _DTYPES)
    return _DTYPES[counted.most_common(1)[0][0]] if counted else None


def context_length_of(config: Mapping[str, Any]) -> int | None:
    """In tokens, before any scaling the engine is asked for."""
    for place in (text_config(config), config):
        for key in _LENGTH_KEYS:
            if type(place.get(key)) is int and place[key] > 0:
                return int(place[key])
    return None


def scaled_context_length_of(config: Mapping[str, Any]) -> int | None:
    """The longest context the model's config allows, in tokens; an engine may allow less."""
    length = context_length_of(config)
    text = text_config(config) or config
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    factor = scaling.get("factor") if isinstance(scaling, Mapping) else None
    if length is None or isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor < 1e6:
        return length
    return int(length * factor)


def vocab_size_of(config: Mapping[str, Any]) -> int | None:
    """Tokens that the model has weights for; a tokenizer may name fewer."""
    for place in (text_config(config), config):
        if type(place.get("vocab_size")) is int and place["vocab_size"] > 0:
            return int(place["vocab_size"])
    return None
