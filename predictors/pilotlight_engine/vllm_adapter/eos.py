"""The end-of-sequence id that a model's tokenizer names, read from its JSON files without loading a tokenizer.

vLLM stops at the tokenizer's eos token besides those of generation_config.json; chat models often differ in the two.
With `skip_tokenizer_init` it does not know the first, so the host tells it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pilotlight_models.folder_files import read_object


def tokenizer_eos_id(model_dir: Path) -> int | None:
    """Id of `eos_token` in tokenizer_config.json; None when the files do not say.

    Raises FileRefused, and ValueError for an id that is no integer.
    """
    config = read_object(model_dir / "tokenizer_config.json") or {}
    token = config.get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    if not isinstance(token, str):
        return None
    for text_id, entry in _object(config.get("added_tokens_decoder")).items():
        if _object(entry).get("content") == token:
            return int(text_id)
    tokenizer = read_object(model_dir / "tokenizer.json") or {}
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if _object(entry).get("content") == token:
            return _id(_object(entry).get("id"))
    found = _object(_object(tokenizer.get("model")).get("vocab")).get(token)
    return _id(found) if found is not None else None


def _id(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"the id of eos_token is {value!r}, not an integer")
    return value


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
