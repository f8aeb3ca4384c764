"""The end-of-sequence id that a model's tokenizer names, read from its JSON files without loading a tokenizer.

vLLM stops at the tokenizer's eos token besides those of generation_config.json; chat models often differ in the two.
With `skip_tokenizer_init` it does not know the first, so the host tells it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def tokenizer_eos_id(model_dir: Path) -> int | None:
    """Id of `eos_token` in tokenizer_config.json; None when the files do not say."""
    config = _read(model_dir / "tokenizer_config.json")
    token = config.get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    if not isinstance(token, str):
        return None
    for text_id, entry in (config.get("added_tokens_decoder") or {}).items():
        if entry.get("content") == token:
            return int(text_id)
    tokenizer = _read(model_dir / "tokenizer.json")
    for entry in tokenizer.get("added_tokens") or ():
        if entry.get("content") == token:
            return int(entry["id"])
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    found = vocabulary.get(token) if isinstance(vocabulary, dict) else None
    return int(found) if found is not None else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}
