"""How large the KV cache is on a CPU when nobody said. Pure.

vLLM's own default takes 92 % of the machine, and the memory is touched at once (its boot time, its RSS): wrong wherever
more than one engine runs. On a GPU vLLM's profiling decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotlight_protocol.model_config import context_length_of, text_config

_MIB = 2**20
LEAST_BYTES = 256 * _MIB
MOST_BYTES = 4096 * _MIB
_FULL_LENGTH_SEQUENCES = 16
_BASE_RSS_BYTES = 1536 * _MIB  # vLLM and torch after boot on a CPU, without weights
_DTYPE_BYTES = 2


def cpu_kv_cache_bytes(
    config: Mapping[str, Any], max_model_len: int | None, memory_bytes: int, weights_bytes: int
) -> int:
    """Room for 16 sequences of full length, between 256 MiB and 4 GiB, and at most half of the memory that is left.

    `config` is the model's config.json; `memory_bytes` what the process may use, `weights_bytes` what the model takes.
    """
    length = max_model_len or context_length_of(config) or 4096
    wanted = bytes_per_token(config) * length * _FULL_LENGTH_SEQUENCES
    left = (memory_bytes - weights_bytes - _BASE_RSS_BYTES) // 2
    size = max(LEAST_BYTES, min(wanted, left, MOST_BYTES))
    return size // _MIB * _MIB


def bytes_per_token(config: Mapping[str, Any]) -> int:
    """Keys and values of one token over all layers, 2 bytes each (transformers' names for the shapes)."""
    text = text_config(config) or config
    heads = int(text.get("num_attention_heads") or 1)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or int(text.get("hidden_size") or 0) // heads)
    return 2 * int(text.get("num_hidden_layers") or 1) * kv_heads * head_dim * _DTYPE_BYTES
