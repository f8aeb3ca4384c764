"""What a config.json may claim about the tensors beside it: every lie is told with its reason, no sound model is."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pilotlight_engine.boot.checkpoint_check import reasons
from pilotlight_models import BUNDLED_MODELS, bundled_model_path
from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_protocol.fingerprint import TensorEntry

DEMO = {name: bundled_model_path(name) for name in BUNDLED_MODELS}
CONFIGS = {name: read_checkpoint(folder).config for name, folder in DEMO.items()}
TENSORS = {name: list(read_checkpoint(folder).inventory) for name, folder in DEMO.items()}
GIB = 2**30


def llama(architecture="LlamaForCausalLM", *, layers=2, without=(), **config):
    """A decoder of Llama's layout as its config.json and its tensors; `without`: keys left to transformers' default."""
    config = {
        "architectures": [architecture], "hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96, "vocab_size": 100,
        "tie_word_embeddings": False, "max_position_embeddings": 512,
    } | config  # fmt: skip
    q, k = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    linears = {
        "self_attn.q_proj": (q, 64), "self_attn.k_proj": (k, 64), "self_attn.v_proj": (k, 64),
        "self_attn.o_proj": (64, q), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (100, 64), "model.norm.weight": (64,), "lm_head.weight": (100, 64)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in linears.items()}
    return {key: value for key, value in config.items() if key not in without}, tensors(shapes)


def tensors(shapes, dtype="BF16"):
    return [TensorEntry(name, dtype, tuple(shape)) for name, shape in shapes.items()]


def changed(tensor, /, **fields):
    return lambda entries: [replace(entry, **fields) if entry.name == tensor else entry for entry in entries]


def dropped(part):
    return lambda entries: [entry for entry in entries if part not in entry.name]


CONFIG_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "hidden_size 10^9": ({"hidden_size": 10**9}, "hidden_size 1000000000, but all tensors together have"),
    "hidden_size a little wrong": ({"hidden_size": 320}, r"embed_tokens.weight is \[2048, 256\], not \[2048, 320\]"),
    "a number too long to print": ({"hidden_size": 10**4000}, "hidden_size is a number of 13288 bits"),
    "more layers": ({"num_hidden_layers": 9}, "num_hidden_layers 9, there are tensors of 4 layers"),
    "fewer layers": ({"num_hidden_layers": 3}, "num_hidden_layers 3, there are tensors of 4 layers"),
    "absurdly many layers": ({"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000; no model has more than"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "a smaller vocabulary": ({"vocab_size": 1024}, r"embed_tokens.weight is \[2048, 256\].*vocab_size 1024"),
    "a larger vocabulary": ({"vocab_size": 4096}, r"embed_tokens.weight is \[2048, 256\].*vocab_size 4096"),
    "a huge vocabulary": ({"vocab_size": 2**31 - 1}, "vocab_size 2147483647 and hidden_size 256, but all tensors"),
    "another inner size": ({"intermediate_size": 1024}, "mlp.gate_proj.* is .*intermediate_size 1024"),
    "a huge inner size": ({"intermediate_size": 10**9}, "hidden_size 256 and intermediate_size 1000000000"),
    "more heads": ({"num_attention_heads": 8}, "self_attn.q_proj.* is .*num_attention_heads 8"),
    "more heads for keys": ({"num_key_value_heads": 4}, "self_attn.k_proj.* is .*num_key_value_heads 4"),
    "larger heads": ({"head_dim": 128}, "self_attn.q_proj.* is .*head_dim 128"),
    "a head that is not tied": ({"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
    "a text for a number": ({"hidden_size": "256"}, "hidden_size is '256', not a whole number"),
    "a text for a fraction": ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not a number"),
    "true for a number": ({"vocab_size": True}, "vocab_size is True, not a whole number"),
    "half a layer": ({"num_hidden_layers": 3.5}, "num_hidden_layers is 3.5, not a whole number"),
    "infinity": ({"intermediate_size": float("inf")}, "intermediate_size is inf, not a whole number"),
    "a negative size": ({"intermediate_size": -512}, "intermediate_size is -512"),
    "positions beyond 32 bits": ({"max_position_embeddings": 2**40}, "max_position_embeddings is 1099511627776"),
    "positions beyond the memory": ({"max_position_embeddings": 2**27}, "table of rotations alone takes 32.0 GiB of"),
    "absurdly many experts": ({"num_experts": 10**9}, "num_experts is 1000000000; no model has more than"),
    "experts that are not there": (
        {"num_local_experts": 60_000}, "num_local_experts 60000 and hidden_size 256 and intermediate_size 512"
    ),
    "a size left out": ({"intermediate_size": None}, "config.json lacks hidden_size"),
    "biases that no file has": ({"attention_bias": True}, "attention_bias, but tensor model.layers.0.self_attn.q_proj"),
    "biases of the other kind": ({"mlp_bias": True}, "mlp_bias, but tensor model.layers.0.mlp.gate_proj.bias is"),
    "quantized with a word": ({"quantization_config": "awq"}, "quantization_config is no JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("model", BUNDLED_MODELS)
@pytest.mark.parametrize("lie", CONFIG_LIES)
def test_a_config_that_lies_is_told_with_its_reason(model, lie) -> None:
    change, reason = CONFIG_LIES[lie]
    found = reasons(CONFIGS[model] | change, TENSORS[model], memory_bytes=4 * GIB)
    assert 1 <= len(found) <= 4, "some reasons, never pages of them"
    assert any(re.search(reason, said) for said in found), found


Q, NORM = "model.layers.2.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight"
TENSOR_LIES = {
    "missing": (dropped("layers.3.mlp.up_proj"), "tensor model.layers.3.mlp.up_proj.weight is missing"),
    "renamed": (
        changed(Q, name=Q.replace("q_proj", "q_prof")),
        "q_proj.weight is missing; the nearest there is of .*prof$"),
    "renamed norm": (changed("model.norm.weight", name="model.nrom.weight"), "tensor model.norm.weight is missing"),
    "of no length": (changed(Q, shape=(0, 256)), r"q_proj.weight is \[0, 256\], not \[256, 256\]"),
    "a norm of no length": (changed(NORM, shape=(0,)), r"input_layernorm.weight is \[0\], not \[256\]"),
    "transposed": (changed("model.layers.0.mlp.up_proj.weight", shape=(256, 512)), r"up_proj.weight is \[256, 512\]"),
    "a layer missing": (dropped("model.layers.3."), "num_hidden_layers 4, there are tensors of 3 layers"),
    "none at all": (lambda entries: [], "the safetensors files hold no weights"),
    "of whole numbers": (changed(Q, dtype="I16"), "q_proj.weight holds I16, which are no weights"),
    "all of no length": (lambda entries: [replace(e, shape=(0,)) for e in entries], "files hold no weights"),
}  # fmt: skip


@pytest.mark.parametrize("lie", TENSOR_LIES)
def test_tensors_that_are_not_those_of_the_config_are_told(lie) -> None:
    change, reason = TENSOR_LIES[lie]
    found = reasons(CONFIGS["demo-bf16"], change(TENSORS["demo-bf16"]))
    assert len(found) == 1
    assert re.search(reason, found[0])


PACKED_LIES = {
    "qweight": ((256, 31), r"qweight is \[256, 31\], not \[256, 32\]"),
    "qzeros": ((8, 32), r"qzeros is \[8, 32\], not \[4, 32\]"),
    "scales": ((4, 128), r"scales is \[4, 128\], not \[4, 256\]"),
}


@pytest.mark.parametrize("parameter", PACKED_LIES)
def test_the_shapes_of_packed_weights_are_known(parameter) -> None:
    shape, reason = PACKED_LIES[parameter]
    lie = changed(f"model.layers.0.self_attn.q_proj.{parameter}", shape=shape)
    (found,) = reasons(CONFIGS["demo-awq"], lie(TENSORS["demo-awq"]))
    assert re.search(reason, found)


GENERATION_LIES = {
    "temperature": ("warm", "temperature is 'warm', not a number"),
    "max_new_tokens": ([1], r"max_new_tokens is \[1\], not a number"),
    "eos_token_id": ({"a": 1}, "eos_token_id is {'a': 1}, not a whole number"),
}


@pytest.mark.parametrize("name", GENERATION_LIES)
def test_a_generation_config_with_texts_for_numbers_is_told(name) -> None:
    value, reason = GENERATION_LIES[name]
    (found,) = reasons(CONFIGS["demo-awq"], TENSORS["demo-awq"], {name: value})
    assert re.search(f"generation_config.json: {reason}", found)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("temperature", (-3, -0.1), (0, 0.6, 2)),
        ("top_p", (0, 7.5, -1), (1, 0.01)),
        ("top_k", (-100,), (-1, 0, 20)),
        ("min_p", (-0.5, 2), (0, 0.05, 1)),
        ("repetition_penalty", (0.0, -1), (1.1,)),
        ("max_new_tokens", (-1, 0), (1, 10**12)),
    ],
)
def test_a_generation_config_that_no_request_can_use_is_told(name, wrong, right):
    for value in wrong:
        (found,) = reasons(CONFIGS["demo-awq"], TENSORS["demo-awq"], {name: value})
        assert found.startswith(f"generation_config.json: {name} is {value}")
    for value in right:
        assert reasons(CONFIGS["demo-awq"], TENSORS["demo-awq"], {name: value}) == ()


def gptq(config):
    """As AutoGPTQ and GPTQModel pack it: qweight int32[inputs / 8, outputs]."""
    config, entries = config
    packed = []
    for entry in entries:
        layer, _, _ = entry.name.rpartition(".")
        if not layer.endswith("_proj"):
            packed.append(entry)
            continue
        outputs, inputs = entry.shape
        shapes = {"qweight": (inputs // 8, outputs), "qzeros": (inputs // 32, outputs // 8), "g_idx": (inputs,)}
        packed += tensors({f"{layer}.{name}": shape for name, shape in shapes.items()}, "I32")
        packed += tensors({f"{layer}.scales": (inputs // 32, outputs)})
    return config | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}, packed


def renamed(model, old, new):
    return model[0], [replace(entry, name=entry.name.replace(old, new)) for entry in model[1]]


def with_config(model, **more):
    return model[0] | more, model[1]


def fused():
    config, entries = llama()
    kept = [entry for entry in entries if not any(f"{part}_proj" in entry.name for part in ("q", "k", "v"))]
    return config, kept + tensors({f"model.layers.{n}.self_attn.qkv_proj.weight": (256, 64) for n in range(2)})


SOUND = {
    **{name: (CONFIGS[name], TENSORS[name]) for name in BUNDLED_MODELS},
    "llama": llama(),
    "llama with defaults left out": llama(
        without=("head_dim", "num_key_value_heads", "tie_word_embeddings"), head_dim=16, num_key_value_heads=4
    ),
    "llama with null for what follows": llama(head_dim=16, without=("head_dim",)),
    "llama tied, its head written all the same": llama(tie_word_embeddings=True),
    "llama with biases and a buffer": (
        llama()[0], llama()[1] + tensors({f"model.layers.0.self_attn.{name}": (128,) for name in
                                          ("q_proj.bias", "o_proj.bias", "rotary_emb.inv_freq")}),
    ),
    "mistral with default keys": llama("MistralForCausalLM", num_key_value_heads=8, without=("num_key_value_heads",)),
    "qwen2 ignores head_dim": with_config(llama("Qwen2ForCausalLM", head_dim=16), head_dim=999),
    "qwen3 with default heads": llama("Qwen3ForCausalLM", head_dim=128, without=("head_dim",)),
    "gemma without a head": (
        llama("GemmaForCausalLM", head_dim=256, without=("head_dim", "tie_word_embeddings"))[0],
        dropped("lm_head")(llama("GemmaForCausalLM", head_dim=256)[1]),
    ),
    "gptq": gptq(llama()),
    "gptq with layers of other widths": with_config(
        gptq(llama()), quantization_config={"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"bits": 8}}}
    ),
    "already fused": fused(),
    "packed by a method of its own": with_config(
        (llama()[0], changed("model.layers.0.mlp.up_proj.weight", shape=(3072, 1))(llama()[1])),
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
    ),
    "mistral's own names": renamed(llama("MistralForCausalLM"), "model.layers.", "layers."),
    "an unknown architecture": with_config(renamed(llama("NewForCausalLM"), "self_attn", "mixer"), head_dim=7),
    "without an architecture": with_config(llama(), architectures=None, num_hidden_layers=3),
    "sizes per layer": with_config(llama("GemmaNewForCausalLM"), intermediate_size=[96, 48]),
    "dense, by a family of experts": with_config(llama("MoeForCausalLM"), num_experts=0, n_routed_experts=None),
    "no positions": with_config(llama("T5LikeForCausalLM"), max_position_embeddings=-1),
    "shared layers, a factorized embedding": (
        {"architectures": ["AlbertLike"], "hidden_size": 4096, "num_hidden_layers": 12, "vocab_size": 30_000},
        tensors({"embed": (30_000, 128), "up": (128, 4096), "layer": (4096, 12 * 4096)}),
    ),
    "a decoder with eyes": with_config(
        renamed(llama("LlavaForConditionalGeneration"), "model.layers.", "language_model.model.layers."),
        text_config={"hidden_size": 64, "vocab_size": 100}, hidden_size=None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", SOUND)
def test_a_sound_model_is_never_refused(model) -> None:
    config, entries = SOUND[model]
    generation_config = {"temperature": 0.6, "top_k": 20, "eos_token_id": [1, 2], "max_new_tokens": None}
    assert reasons(json.loads(json.dumps(config)), entries, generation_config, memory_bytes=GIB) == ()
