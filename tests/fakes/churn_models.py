"""Fifty small models of one architecture that nobody can mistake for one another, and what each must answer.

The models are float32 and random, so that greedy text has no near-ties: a plain torch forward pass (no vLLM, nothing of
this platform but the model's definition) and vLLM then choose the same tokens, whatever the batch, the prefix cache or
the place where a stream was taken up again. All prompts begin alike, so that a KV cache that outlives its tenant is
found at once. AWQ models are the exception: their kernels compute in 16 bit, and only an engine can say what they
answer.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from pilotlight_models import bundled_model_path
from pilotlight_models.awq_calibration import quantize_llama
from pilotlight_models.byte_level_tokenizer import STOP_IDS, TURN_START_ID
from pilotlight_models.checkpoint import copy_tokenizer, write_checkpoint
from pilotlight_models.llama import Llama, LlamaShape, initialise

# Longer than one KV block on a CPU (128 tokens), or nothing of it would ever be cached.
SHARED_PROMPT_TOKENS = 272
OWN_PROMPT_TOKENS = 8
PROMPTS = 2
OUTPUT_TOKENS = 24
TENANTS = 5
SHAPE = LlamaShape(
    hidden_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=32,
    intermediate_size=128,
    context_tokens=512,
    tied_embeddings=False,
)
ENGINE_ARGS = {
    "max_model_len": "512",
    "max_num_seqs": "4",
    "enforce_eager": "true",
    "kv_cache_memory_bytes": str(64 * 2**20),
}
_FIRST_PLAIN_ID = 300


@dataclass(frozen=True)
class Endpoint:
    """`answers`: OUTPUT_TOKENS ids for each of `prompts`, None where only an engine can say."""

    name: str
    folder: Path
    tenant: str
    engine_args: dict[str, str]
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...] | None


def make_endpoints(folder: Path, count: int, awq_count: int, seed: int) -> list[Endpoint]:
    """`count` models under `folder`, the last `awq_count` of them quantized; their answers are pairwise different."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    shared = [dice.randrange(_FIRST_PLAIN_ID, SHAPE.vocab_size) for _ in range(SHARED_PROMPT_TOKENS)]
    own = [
        [dice.randrange(_FIRST_PLAIN_ID, SHAPE.vocab_size) for _ in range(OWN_PROMPT_TOKENS)] for _ in range(PROMPTS)
    ]
    prompts = tuple(tuple(shared + tail) for tail in own)
    model = Llama(SHAPE)
    found = []
    for number in range(count):
        initialise(model, 1000 * seed + number)
        with torch.no_grad():
            model.lm_head.weight[sorted({*STOP_IDS, TURN_START_ID})] = 0
        is_awq = number >= count - awq_count
        name = f"churn-{number:02d}"
        answers = None
        if is_awq:
            quantize_llama(model, None, folder / name, SHAPE.hidden_size)
        else:
            write_checkpoint(folder / name, SHAPE, model.state_dict(), torch.float32, None)
            answers = tuple(tuple(model.greedy(list(prompt), OUTPUT_TOKENS)) for prompt in prompts)
        copy_tokenizer(bundled_model_path("demo-bf16"), folder / name)
        # vLLM runs a float32 checkpoint in 16 bit unless it is told not to.
        engine_args = ENGINE_ARGS if is_awq else {**ENGINE_ARGS, "dtype": "float32"}
        found.append(Endpoint(name, folder / name, f"tenant-{number % TENANTS}", engine_args, prompts, answers))
    return found


def with_answers(endpoint: Endpoint, answers: tuple[tuple[int, ...], ...]) -> Endpoint:
    return dataclasses.replace(endpoint, answers=answers)
