"""Finding and reading a model's tokenizer files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError, model_folder, read


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


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_a_file_that_blocks_or_has_no_end_is_refused_and_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(TokenizerFilesError, match=f"{name} is not a regular file"):
        read(tmp_path)
    (tmp_path / name).unlink()
    with (tmp_path / name).open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    with pytest.raises(TokenizerFilesError, match=f"{name} has 3221225472 bytes"):
        read(tmp_path)


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerFilesError, match=r"chat_template\.jinja is not valid UTF-8"):
        read(tmp_path)
