"""The committed demo checkpoints: where they are, what they consist of, and what they must never contain."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from pilotlight_models import BUNDLED_MODELS, bundled_model_path

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_a_bundled_model_has_exactly_the_files_of_the_hugging_face_layout(name) -> None:
    assert {path.name for path in bundled_model_path(name).iterdir()} == FILES


def test_both_models_together_stay_small_enough_to_be_committed() -> None:
    sizes = [path.stat().st_size for name in BUNDLED_MODELS for path in bundled_model_path(name).iterdir()]
    assert sum(sizes) < 12_000_000


@pytest.mark.parametrize("name", ["", "demo", "../demo-awq", "demo-awq/", "DEMO-AWQ"])
def test_an_unknown_name_is_refused_and_the_message_names_the_available_ones(name) -> None:
    with pytest.raises(LookupError, match="demo-awq, demo-bf16"):
        bundled_model_path(name)


def test_looking_up_a_model_imports_nothing_heavy() -> None:
    code = "import sys, pilotlight_models as m; m.bundled_model_path('demo-awq'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "tokenizers", "transformers", "vllm", "numpy"} & set(loaded)


def test_bf16_weights_are_all_bfloat16() -> None:
    assert set(stored_dtypes("demo-bf16").values()) == {"BF16"}


def test_awq_quantizes_every_linear_layer_of_the_blocks_and_nothing_else() -> None:
    dtypes = stored_dtypes("demo-awq")
    unquantized = {name for name in stored_dtypes("demo-bf16") if not name.endswith("_proj.weight")}
    linears = {name.removesuffix(".weight") for name in stored_dtypes("demo-bf16") if name.endswith("_proj.weight")}

    assert {name for name, dtype in dtypes.items() if dtype == "I32"} == {
        f"{linear}.{part}" for linear in linears for part in ("qweight", "qzeros")
    }
    assert {name for name, dtype in dtypes.items() if dtype == "F16"} == unquantized | {
        f"{linear}.scales" for linear in linears
    }


def test_awq_shapes_follow_the_gemm_format():
    folder = bundled_model_path("demo-awq")
    config = read_config("demo-awq")
    group_size = config["quantization_config"]["group_size"]
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    with safe_open(folder / "model.safetensors", framework="np") as weights:

        def shape(part):
            return weights.get_slice(f"model.layers.0.mlp.down_proj.{part}").get_shape()

        assert shape("qweight") == [intermediate, hidden // 8]
        assert shape("qzeros") == [intermediate // group_size, hidden // 8]
        assert shape("scales") == [intermediate // group_size, hidden]


def test_the_configurations_differ_only_in_dtype_and_quantization() -> None:
    bf16, awq = read_config("demo-bf16"), read_config("demo-awq")
    quantization = awq.pop("quantization_config")

    assert quantization["quant_method"] == "awq"
    assert (quantization["bits"], quantization["zero_point"], quantization["version"]) == (4, True, "gemm")
    assert (bf16.pop("torch_dtype"), awq.pop("torch_dtype")) == ("bfloat16", "float16")
    assert bf16 == awq


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_generation_stops_at_the_end_of_a_turn_and_of_a_text(name) -> None:
    generation = json.loads((bundled_model_path(name) / "generation_config.json").read_text())
    added = json.loads((bundled_model_path(name) / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]


def read_config(name):
    return json.loads((bundled_model_path(name) / "config.json").read_text())


def stored_dtypes(name):
    with safe_open(bundled_model_path(name) / "model.safetensors", framework="np") as weights:
        return {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 (not a mapping)
