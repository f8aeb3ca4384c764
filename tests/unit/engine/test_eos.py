"""The eos id of a tokenizer's files, also of files that are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotlight_engine.vllm_adapter.eos import tokenizer_eos_id
from pilotlight_models.folder_files import FileRefused


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("config", "tokenizer", "found"),
    [
        ({}, {}, None),
        ({"eos_token": "x"}, {}, None),
        ({"eos_token": "x", "added_tokens_decoder": {"7": {"content": "x"}}}, {}, 7),
        ({"eos_token": {"content": "x"}}, {"added_tokens": [{"content": "x", "id": 8}]}, 8),
        ({"eos_token": "x"}, {"model": {"vocab": {"x": 9}}}, 9),
        ({"eos_token": "x", "added_tokens_decoder": {"1": "x"}}, {"added_tokens": ["x"], "model": "x"}, None),
        (
            {"eos_token": "x", "added_tokens_decoder": ["x"]},
            {"added_tokens": 1, "model": {"vocab": [["x", 0.1]]}},
            None,
        ),
    ],
)
def test_the_id_is_found_wherever_it_stands(
    tmp_path: Path, config: object, tokenizer: object, found: int | None
) -> None:
    assert tokenizer_eos_id(write(tmp_path, tokenizer_config=config, tokenizer=tokenizer)) == found


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        ("[" * 100_000, {}),
        ("{", {}),
        ([], {}),
        ({"eos_token": "x", "added_tokens_decoder": {"one": {"content": "x"}}}, {}),
        ({"eos_token": "x"}, {"added_tokens": [{"content": "x", "id": "8"}]}),
        ({"eos_token": "x"}, {"model": {"vocab": {"x": [1]}}}),
    ],
)
def test_what_is_no_id_is_refused(tmp_path: Path, config: object, tokenizer: object) -> None:
    with pytest.raises((ValueError, FileRefused)):
        tokenizer_eos_id(write(tmp_path, tokenizer_config=config, tokenizer=tokenizer))
