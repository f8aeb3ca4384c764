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

from pilotlight_models.folder_files import FileRefused, read_file, read_object, read_text
from pilotlight_models.in_place import folder_in_place
from pilotlight_models.pooling_files import read_pooling_files
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.model_config import scaled_context_length_of, vocab_size_of
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_text.tokenization.pooling_traits import PoolingTraits, pooling_traits

_MOST_TEMPLATES = 64


class TokenizerFilesError(Exception):
    """The files cannot be used; the message says what to change in the command line or the model."""


@dataclass(frozen=True)
class TokenizerFiles:
    """What was read. `context_length` is an upper bound in tokens from config.json, None where it says nothing;
    `vocab_size`: tokens that it has weights for. `pooling`: of a model that embeds or scores."""

    tokenizer_json: bytes
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    context_length: int | None = None
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    pooling: PoolingTraits | None = None
    vocab_size: int | None = None


def _sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, float]:
    """vLLM's list of what it takes from there, but for the length."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: generation_config[name] for name in names if isinstance(generation_config.get(name), int | float)}


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
    try:
        config = read_object(directory / "config.json") or {}
        pooling = pooling_traits(config, read_pooling_files(directory))
        return TokenizerFiles(
            tokenizer_json=read_file(directory / "tokenizer.json"),
            tokenizer_config=read_object(directory / "tokenizer_config.json") or {},
            special_tokens_map=read_object(directory / "special_tokens_map.json") or {},
            template=read_text(directory / "chat_template.jinja"),
            named_templates=named_templates(directory),
            context_length=_context_length(config, pooling),
            pooling=pooling,
            sampling_defaults=_sampling_defaults(read_object(directory / "generation_config.json") or {}),
            vocab_size=vocab_size_of(config),
        )
    except FileNotFoundError as error:
        raise TokenizerFilesError(
            f"no tokenizer: cannot read {directory / 'tokenizer.json'} ({error.strerror}). The transformer needs the "
            "model's tokenizer.json; point --model_dir or --model_uri at it"
        ) from error
    except FileRefused as error:
        raise TokenizerFilesError(f"{directory}: {error.message}") from error


def named_templates(directory: Path) -> dict[str, str]:
    """Raises FileRefused."""
    files = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    return {file.stem: read_text(file) or "" for file in files[:_MOST_TEMPLATES]}


def _context_length(config: Mapping[str, Any], pooling: PoolingTraits | None) -> int | None:
    """What a sentence model was trained for counts, as in vLLM."""
    stated = scaled_context_length_of(config)
    trained = None if pooling is None else pooling.max_tokens
    return min(filter(None, (stated, trained)), default=None)
