"""A hash of the code that exchanges weights, and of what looks at them: a proof by other code is none of this one."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_CODE = (
    "swap/awq_weights.py", "swap/kept_packs.py", "swap/mapped_weights.py", "swap/weight_loading.py",
    "swap/weight_steps.py", "swap/live_state.py", "swap/packed_layers.py", "swap/tensor_digest.py",
    "vllm_adapter/engine_examination.py", "vllm_adapter/poisoned_exchange.py", "vllm_adapter/weight_exchange.py",
)  # fmt: skip


@functools.cache
def code_hash() -> str:
    """Hex, 12 digits."""
    root = Path(__file__).parents[1]
    return hashlib.sha256(b"".join((root / name).read_bytes() for name in _CODE)).hexdigest()[:12]
