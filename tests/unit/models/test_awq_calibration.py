"""The activation-aware search: it must lose less than plain rounding, and leave the model it was given alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pilotlight_model_making.awq_calibration import quantize_llama
from pilotlight_model_making.awq_packing import unpack
from pilotlight_model_making.llama import Llama, LlamaShape, initialise

SHAPE = LlamaShape(
    hidden_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate_size=128, vocab_size=64, context_tokens=64
)


@pytest.fixture
def model():
    model = Llama(SHAPE)
    initialise(model, seed=1)
    with torch.no_grad():
        # A few loud channels, as real models have: what activation-aware scaling is for.
        for block in model.blocks():
            block.input_layernorm.weight[:4] *= 20
            block.post_attention_layernorm.weight[:4] *= 20
    return model


def test_the_search_loses_less_than_plain_rounding(model, tmp_path: Path) -> None:
    text = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(0))
    quantize_llama(model, None, tmp_path / "plain", group_size=32)
    quantize_llama(model, text, tmp_path / "searched", group_size=32)

    unseen = torch.randint(0, 64, (8, 32), generator=torch.Generator().manual_seed(9))
    expected = model(unseen)
    errors = {name: (restore(tmp_path / name)(unseen) - expected).square().mean() for name in ("plain", "searched")}
    assert errors["searched"] < 0.7 * errors["plain"]


def test_the_given_model_stays_as_it_is(model, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize_llama(model, torch.zeros(1, 8, dtype=torch.int64), tmp_path, group_size=32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def restore(folder, group_size=32):
    """Return the checkpoint as a float model."""
    tensors = load_file(folder / "model.safetensors")
    state = {name: tensor.float() for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim}
    for name in [name for name in tensors if name.endswith(".qweight")]:
        prefix = name.removesuffix(".qweight")
        zeros = unpack(tensors[f"{prefix}.qzeros"]).repeat_interleave(group_size, dim=0)
        scales = tensors[f"{prefix}.scales"].float().repeat_interleave(group_size, dim=0)
        del state[name]
        state[f"{prefix}.weight"] = ((unpack(tensors[name]) - zeros) * scales).t()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = Llama(SHAPE)
    model.load_state_dict(state)
    return model
