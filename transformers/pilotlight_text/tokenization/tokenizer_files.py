"""Where the tokenizer and the chat template come from: a directory, or a model URI of which only these files are read.

Responsible for finding and reading tokenizer.json and its neighbours. It never touches weights and never imports torch
or Hugging Face transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pilotlight_models.in_place import folder_in_place
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.model_reference import parse_model_reference

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


@contextlib.contextmanager
def model_folder(model_uri: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """The local folder of a model; the store fetches the tokenizer's files only.

    Raises TokenizerFilesError.
    """
    with contextlib.ExitStack() as held:
        try:
            reference = parse_model_reference(model_uri)
            folder = folder_in_place(reference)
            if folder is None:
                from pilotlight_store.stored_folder import stored_folder  # 0.1 s that only a fetch needs

                folder = held.enter_context(stored_folder(reference, environment, "tokenizer")).path
        except PilotlightError as error:
            raise TokenizerFilesError(error.message) from error
        yield folder


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


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise TokenizerFilesError(f"{path} is not valid JSON: {error}") from error
