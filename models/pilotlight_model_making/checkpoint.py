"""Reads and writes checkpoints in the Hugging Face layout: `config.json`, `generation_config.json`, safetensors.

Responsible for file names, dtypes and configuration keys. It neither trains nor quantizes, and it never writes pickle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pilotlight_model_making.byte_level_tokenizer import END_OF_TEXT_ID, TOKENIZER_FILES, TURN_END_ID, write_json
from pilotlight_model_making.llama import Llama, LlamaShape

WEIGHTS_FILE = "model.safetensors"


def write_checkpoint(
    folder: Path, shape: LlamaShape, tensors: dict[str, Tensor], dtype: torch.dtype, quantization: dict[str, Any] | None
) -> None:
    """Write configuration and weights into `folder`, which is made when missing.

    Args:
        tensors: by Hugging Face parameter name; floats are stored as `dtype`, integers as they are.
        quantization: the `quantization_config` of a quantized checkpoint, else None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (tensor.detach().to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
        if not (shape.tied_embeddings and name == "lm_head.weight")
    }
    save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    # safetensors leaves the file to its owner alone, but containers read models as any user.
    (folder / WEIGHTS_FILE).chmod(0o644)
    config = _config(shape, str(dtype).removeprefix("torch."))
    if quantization is not None:
        config["quantization_config"] = quantization
    write_json(folder / "config.json", config)
    generation = {
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": [TURN_END_ID, END_OF_TEXT_ID],
        "pad_token_id": END_OF_TEXT_ID,
    }
    write_json(folder / "generation_config.json", generation)


def write_bf16(folder: Path, model: Llama) -> None:
    """Write `model` unquantized, as bfloat16."""
    write_checkpoint(folder, model.shape, model.state_dict(), torch.bfloat16, None)


def read_llama(folder: Path) -> Llama:
    """Return an unquantized checkpoint as a float32 model.

    Raises:
        ValueError: the checkpoint is quantized.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        raise ValueError(f"{folder} is quantized; read the bf16 checkpoint that it was made from")
    shape = LlamaShape(
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        context_tokens=config["max_position_embeddings"],
        tied_embeddings=config["tie_word_embeddings"],
        rope_theta=config.get("rope_theta") or config["rope_parameters"]["rope_theta"],
        norm_epsilon=config["rms_norm_eps"],
    )
    tensors = load_file(folder / WEIGHTS_FILE)
    if shape.tied_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model = Llama(shape)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer's files from the checkpoint at `source`."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)


def _config(shape: LlamaShape, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": dtype,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.context_tokens,
        "tie_word_embeddings": shape.tied_embeddings,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": TURN_END_ID,
        "pad_token_id": END_OF_TEXT_ID,
        "use_cache": True,
    }
