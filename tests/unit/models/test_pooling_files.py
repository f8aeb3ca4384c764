"""sentence-transformers' files: what is read, and that nothing outside of the model's folder is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pilotlight_models.folder_files import FileRefused
from pilotlight_models.pooling_files import read_pooling_files
from pilotlight_protocol.pooling_config import is_encoder, pooling_task, tells_pairs_apart


def folder(tmp_path: Path, modules: Any = None, sentence: Any = None) -> Path:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    if modules is not None:
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    if sentence is not None:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps(sentence))
    return tmp_path


MODULES = [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"}, {"type": "N", "path": "2_N"}]


def test_what_is_read(tmp_path: Path) -> None:
    found = read_pooling_files(folder(tmp_path, MODULES, {"max_seq_length": 256, "do_lower_case": True}))
    assert found is not None
    assert (found.has_modules, found.max_seq_length, found.lower_case) == (True, 256, True)
    assert [path.name for path in found.files] == ["sentence_bert_config.json", "modules.json", "config.json"]
    assert found.settings["modules"] == [
        ["Transformer", "", None],
        ["Pooling", "1_Pooling", {"pooling_mode_mean_tokens": True}],
        ["N", "2_N", None],
    ]


def test_a_model_without_them(tmp_path: Path) -> None:
    assert read_pooling_files(folder(tmp_path)) is None


@pytest.mark.parametrize("length", [True, 0, -1, "256", 2.5, None])
def test_a_length_that_is_none(tmp_path: Path, length: Any) -> None:
    found = read_pooling_files(folder(tmp_path, sentence={"max_seq_length": length, "x": 1}))
    assert found is not None
    assert found.max_seq_length is None
    assert not found.has_modules


@pytest.mark.parametrize(
    "modules",
    [
        {"type": "Pooling"},
        ["Pooling"],
        [{"type": "Pooling"}],
        [{"type": 1, "path": ""}],
        [{"type": "Pooling", "path": "../other"}],
        [{"type": "Pooling", "path": "/etc"}],
        [{"type": "Pooling", "path": "a/../../b"}],
        [{"type": "Pooling", "path": ""}] * 17,
        None,
    ],
)
def test_modules_that_are_none(tmp_path: Path, modules: Any) -> None:
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(FileRefused, match=r"modules\.json"):
        read_pooling_files(tmp_path)


def test_a_module_that_its_reader_would_not_come_back_from(tmp_path: Path) -> None:
    (folder(tmp_path, MODULES) / "1_Pooling" / "config.json").unlink()
    os.mkfifo(tmp_path / "1_Pooling" / "config.json")
    with pytest.raises(FileRefused, match="not a regular file"):
        read_pooling_files(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "has_modules", "task", "encoder"),
    [
        ("LlamaForCausalLM", False, None, False),
        ("Qwen3ForCausalLM", True, "embed", False),
        ("Gemma3ForConditionalGeneration", False, None, False),
        ("BertModel", False, "embed", True),
        ("XLMRobertaModel", True, "embed", True),
        ("ModernBertForSequenceClassification", False, "classify", True),
        ("BertForSequenceClassification", False, "classify", True),
        ("BertForMaskedLM", False, "embed", True),
        ("LlamaModel", False, "embed", False),
        ("Qwen2ForSequenceClassification", False, "classify", False),
        ("GteNewModel", False, "embed", True),
        ("", False, None, False),
    ],
)
def test_what_an_architecture_does(architecture: str, has_modules: bool, task: str | None, encoder: bool) -> None:
    config = {"architectures": [architecture]}
    assert pooling_task(config, has_modules=has_modules) == task
    assert is_encoder(config) == encoder


@pytest.mark.parametrize("architectures", [None, [], "BertModel", [1], {}])
def test_an_architecture_that_is_none(architectures: Any) -> None:
    assert pooling_task({"architectures": architectures}, has_modules=False) is None
    assert not is_encoder({"architectures": architectures})


def test_which_models_tell_two_texts_apart() -> None:
    assert tells_pairs_apart({"type_vocab_size": 2})
    assert not any(tells_pairs_apart(config) for config in ({}, {"type_vocab_size": 1}, {"type_vocab_size": "2"}))
