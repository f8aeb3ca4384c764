"""Where the tokenizer and the chat template come from: a directory, or a model URI of which only these files are read.

Responsible for finding and reading tokenizer.json and its neighbours. It never touches weights and never imports torch
or Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_uri import BundledModel, Folder, HubModel, RemoteModel, parse_model_uri

_HUB_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "config.json",
]
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


class TokenizerFilesError(Exception):
    """The files cannot be used; the message says what to change in the command line or the model."""


@dataclass(frozen=True)
class TokenizerFiles:
    """What was read. `context_length` is an upper bound in tokens from config.json, None where it says nothing."""

    tokenizer_json: bytes
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    context_length: int | None = None


def directory_of(model_uri: str) -> Path:
    """The local directory of a model's URI (`pilotlight_protocol.model_uri`); of the hub's models the tokenizer only.

    Raises TokenizerFilesError.
    """
    try:
        place = parse_model_uri(model_uri)
    except InvalidInput as error:
        raise TokenizerFilesError(error.message) from error
    match place:
        case Folder(path):
            return Path(path)
        case BundledModel(name):
            return _bundled(name)
        case HubModel(repository, revision):
            return _from_hub(model_uri, repository, revision)
        case RemoteModel(scheme):
            raise TokenizerFilesError(
                f"cannot read a tokenizer from '{scheme}://'; give --model_uri as hf://, file:// or bundled://, "
                "or --model_dir with a mounted directory"
            )


def read(directory: Path) -> TokenizerFiles:
    """Read the files. Raises TokenizerFilesError when there is no tokenizer.json or a file is not valid."""
    path = directory / "tokenizer.json"
    try:
        tokenizer_json = path.read_bytes()
    except OSError as error:
        raise TokenizerFilesError(
            f"no tokenizer: cannot read {path} ({error.strerror}). The transformer needs the model's tokenizer.json; "
            "point --model_dir or --model_uri at it"
        ) from error
    template = directory / "chat_template.jinja"
    named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    return TokenizerFiles(
        tokenizer_json=tokenizer_json,
        tokenizer_config=_json(directory / "tokenizer_config.json"),
        special_tokens_map=_json(directory / "special_tokens_map.json"),
        template=template.read_text(encoding="utf-8") if template.exists() else None,
        named_templates={file.stem: file.read_text(encoding="utf-8") for file in named},
        context_length=context_length(_json(directory / "config.json")),
    )


def context_length(config: Mapping[str, Any]) -> int | None:
    """The longest context the model's config allows, in tokens; the predictor's engine may allow less."""
    if isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    length = next((config[key] for key in _LENGTH_KEYS if isinstance(config.get(key), int)), None)
    if length is None or length <= 0:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    return int(length * max(1.0, float(factor))) if isinstance(factor, int | float) else int(length)


def _bundled(name: str) -> Path:
    try:
        return bundled_model_path(name)
    except LookupError as error:
        raise TokenizerFilesError(str(error.args[0])) from error


def _from_hub(uri: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # 0.3 s that only hf:// needs
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's own tree of exceptions, requests' and OSError
        raise TokenizerFilesError(f"cannot fetch the tokenizer of {uri}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise TokenizerFilesError(f"{path} is not valid JSON: {error}") from error
