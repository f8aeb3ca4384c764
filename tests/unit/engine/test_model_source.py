import json
import os
from pathlib import Path

import pytest

from pilotlight_engine import model_source
from pilotlight_engine.boot.lora import max_lora_rank
from pilotlight_engine.vllm_adapter.eos import tokenizer_eos_id
from pilotlight_protocol.errors import InvalidInput, ModelNotFound


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "a model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"12345")
    return directory


def test_a_checkpoint(checkpoint: Path) -> None:
    assert model_source.check_directory(checkpoint) == checkpoint
    assert model_source.weights_bytes(checkpoint) == 5
    with pytest.raises(ModelNotFound, match="check --model_dir"):
        model_source.check_directory(checkpoint / "none")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_weights_are_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    with pytest.raises(InvalidInput, match="convert them to safetensors"):
        model_source.check_directory(checkpoint)


def test_safetensors_beside_pickles_are_fine(checkpoint: Path) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    assert model_source.check_directory(checkpoint) == checkpoint


def test_directories_that_are_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"no .*safetensors"):
        model_source.check_directory(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(InvalidInput, match=r"config\.json"):
        model_source.check_directory(checkpoint)


def test_what_would_hold_up_whoever_opens_it_is_refused(checkpoint: Path) -> None:
    os.mkfifo(checkpoint / "vocab.json")
    with pytest.raises(InvalidInput, match=r"vocab\.json is not a regular file"):
        model_source.check_directory(checkpoint)


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [
        (None, None, None),
        ({}, None, None),
        ({"eos_token": "</s>", "added_tokens_decoder": {"2": {"content": "</s>"}}}, None, 2),
        ({"eos_token": {"content": "<|im_end|>"}}, {"added_tokens": [{"id": 7, "content": "<|im_end|>"}]}, 7),
        ({"eos_token": "</s>"}, {"added_tokens": [], "model": {"vocab": {"</s>": 3}}}, 3),
        ({"eos_token": "</s>"}, {"added_tokens": [], "model": {"vocab": [["</s>", 0.0]]}}, None),
        ({"eos_token": None}, None, None),
    ],
)
def test_eos_of_the_tokenizer(
    tmp_path: Path, config: dict[str, object] | None, tokenizer: dict[str, object] | None, expected: int | None
) -> None:
    for name, content in (("tokenizer_config.json", config), ("tokenizer.json", tokenizer)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert tokenizer_eos_id(tmp_path) == expected


@pytest.mark.parametrize(("ranks", "expected"), [([4], 8), ([8, 12], 16), ([64], 64), ([300], 320)])
def test_lora_rank_is_rounded_up_to_what_vllm_offers(tmp_path: Path, ranks: list[int], expected: int) -> None:
    loras = []
    for number, rank in enumerate(ranks):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps({"r": rank}))
        (directory / "adapter_model.safetensors").write_bytes(b"")
        loras.append((f"a{number}", str(directory)))
    assert max_lora_rank(loras) == expected


def test_a_lora_without_safetensors_or_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'x'.*no safetensors"):
        max_lora_rank([("x", str(tmp_path))])
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"'x'.*no rank"):
        max_lora_rank([("x", str(tmp_path))])
