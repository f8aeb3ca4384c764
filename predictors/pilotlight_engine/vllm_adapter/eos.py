"""The end-of-sequence id that a model's tokenizer names, read from its JSON files without loading a tokenizer.

vLLM stops at the tokenizer's eos token besides those of generation_config.json; chat models often differ in the two.
With `skip_tokenizer_init` it does not know the first, so the host tells it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pilotlight_models.folder_files import FileRefused, read_file, read_object


class _Tokenizer(msgspec.Struct):
    """`model` has the vocabulary, which is nearly all of the file and is not looked into where it need not be: a swap
    waits for this."""

    added_tokens: Any = None
    model: msgspec.Raw = msgspec.Raw(b"null")


class _Model(msgspec.Struct):
    vocab: Any = None


_tokenizers = msgspec.json.Decoder(_Tokenizer)
_models = msgspec.json.Decoder(_Model)


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
    return _id_in_tokenizer(model_dir / "tokenizer.json", token)


def _id_in_tokenizer(path: Path, token: str) -> int | None:
    try:
        tokenizer = _tokenizers.decode(read_file(path))
        for entry in tokenizer.added_tokens if isinstance(tokenizer.added_tokens, list) else ():
            if _object(entry).get("content") == token:
                return _id(_object(entry).get("id"))
        if bytes(memoryview(tokenizer.model)[:1]) != b"{":
            return None
        found = _object(_models.decode(tokenizer.model).vocab).get(token)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise FileRefused(f"{path.name} is no valid JSON object: {error}") from error
    return None if found is None else _id(found)


def _id(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"the id of eos_token is {value!r}, not an integer")
    return value


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
