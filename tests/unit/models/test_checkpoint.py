"""Checkpoints on disk: what is written is what is read, and seeds tell models apart."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from pilotlight_model_making.awq_calibration import quantize_llama
from pilotlight_model_making.byte_level_tokenizer import STOP_IDS
from pilotlight_model_making.checkpoint import read_llama, write_bf16
from pilotlight_model_making.llama import Llama, LlamaShape, initialise
from pilotlight_models import bundled_model_path

SMALL = {"hidden_size": 64, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 32, "intermediate_size": 64}


def random_model(seed, tied_embeddings=True):
    model = Llama(LlamaShape(**SMALL, vocab_size=128, tied_embeddings=tied_embeddings))
    initialise(model, seed)
    return model


@pytest.mark.parametrize("tied_embeddings", [True, False])
def test_a_written_model_is_read_back_rounded_to_bf16(tmp_path: Path, tied_embeddings) -> None:
    model = random_model(1, tied_embeddings)
    write_bf16(tmp_path, model)

    restored = read_llama(tmp_path)

    assert restored.shape == model.shape
    expected = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in restored.state_dict().items())


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    write_bf16(tmp_path, random_model(1))
    with safe_open(tmp_path / "model.safetensors", framework="np") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 (not a mapping)


def test_every_user_may_read_the_weights(tmp_path: Path) -> None:
    write_bf16(tmp_path, random_model(1))
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_quantized_checkpoint_is_not_read_as_plain_weights(tmp_path: Path) -> None:
    quantize_llama(random_model(1), None, tmp_path)
    with pytest.raises(ValueError, match="is quantized"):
        read_llama(tmp_path)


def test_the_parameter_count_is_that_of_the_network() -> None:
    for tied in (True, False):
        model = random_model(0, tied)
        assert model.shape.parameter_count() == sum(p.numel() for p in model.parameters())


def test_seeds_give_different_greedy_tokens_and_the_same_seed_the_same() -> None:
    first, again, other = (random_model(seed, tied_embeddings=False).greedy([5, 6, 7], 8) for seed in (1, 1, 2))
    assert first == again != other


def test_the_demo_model_continues_a_well_known_sentence() -> None:
    folder = bundled_model_path("demo-bf16")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = read_llama(folder).greedy(tokenizer.encode("The capital of France is").ids, 8, STOP_IDS)
    assert tokenizer.decode(ids) == " Paris."
