"""Finding and reading a model's tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError, context_length, model_folder, read


def test_a_directory_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    (tmp_path / "chat_template.jinja").write_text("hi")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    with model_folder(tmp_path.as_uri(), {}) as folder:
        files = read(folder)
    assert files.tokenizer_json == b"{}"
    assert files.tokenizer_config == {"bos_token": "<s>"}
    assert (files.template, files.named_templates, files.context_length) == ("hi", {"rag": "rag"}, 512)


def test_only_tokenizer_json_is_needed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with model_folder(str(tmp_path), {}) as folder:
        files = read(folder)
    assert (files.template, files.tokenizer_config, files.context_length) == (None, {}, None)


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerFilesError, match=r"cannot read .*tokenizer\.json"):
        read(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(TokenizerFilesError, match=r"tokenizer_config\.json is not valid JSON"):
        read(tmp_path)


@pytest.mark.parametrize("uri", ["bundled://no-such-model", "bundled://../pilotlight_models", "ftp://host/model"])
def test_unknown_places_are_refused(uri: str) -> None:
    with pytest.raises(TokenizerFilesError), model_folder(uri, {}):
        pass


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 8192, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 32768),
        ({"max_position_embeddings": 8192, "rope_scaling": None}, 8192),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_context_length(config: dict[str, Any], tokens: int | None) -> None:
    assert context_length(config) == tokens
