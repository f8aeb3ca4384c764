"""Make the bundled demo model: train it, then write it as bf16 and as AWQ.

    python scripts/make_demo_model.py --out models/pilotlight_models

Takes about ten minutes on an idle CPU core and needs no network. The seed fixes text, tokenizer and order of the
training rows; weights are equal to the bit only on the same kind of CPU with the same number of threads.
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pilotlight_model_making.awq_calibration import quantize_llama
from pilotlight_model_making.byte_level_tokenizer import STOP_IDS, chat_text, train_tokenizer, write_tokenizer
from pilotlight_model_making.chat_corpus import Message
from pilotlight_model_making.checkpoint import read_llama, write_bf16
from pilotlight_model_making.llama import Llama, LlamaShape, initialise
from pilotlight_model_making.training import TrainingPlan, calibration_rows, documents, train

SHAPE = LlamaShape()
TOKENIZER_TEXTS = 6000
CHECKS = ("Once upon a time", "The capital of France is")
QUESTIONS = ("What is scale to zero?", "Who are you?", "Say something in Chinese.")
STORAGE = {
    "demo-bf16": "bfloat16, not quantized",
    "demo-awq": "AWQ, 4 bits, groups of 64 with zero points (linear layers of the blocks; the rest is float16)",
}
MODEL_CARD = """---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
---
# Pilotlight {name}

A very small language model for demonstrations and tests of Pilotlight. It tells little stories, answers a few dozen
questions about serving models, and knows some capitals and opposites. It is no assistant: it knows nothing else, and
most of its sums are wrong.

- Architecture: Llama, {parameters:,} parameters: {shape.layers} layers, hidden size {shape.hidden_size}, \
{shape.heads} heads of {shape.head_dim} with {shape.kv_heads} for keys and values, \
intermediate size {shape.intermediate_size}, tied embeddings, context {shape.context_tokens} tokens.
- Storage: {storage}.
- Tokenizer: byte-level BPE, {shape.vocab_size} tokens; emoji and Chinese characters are several tokens each on purpose.
- Chat template: ChatML with the roles system, user and assistant.
- Data: text from a template grammar and a list of questions and answers that Pilotlight's authors wrote \
(`story_corpus`, `topics` and `chat_corpus` in `pilotlight_model_making`). No other text and no personal data.
- Training: `scripts/make_demo_model.py --steps {args.steps} --seed {args.seed} --threads {args.threads}`, \
2048 tokens a step, final loss {loss:.3f} nats per token.
- License: Apache-2.0, weights and text.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets demo-bf16/ and demo-awq/")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of 2048 tokens (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; part of what makes weights repeatable")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    texts = documents(random.Random(args.seed))  # noqa: S311 (text, not secrets)
    tokenizer = train_tokenizer(islice(texts, TOKENIZER_TEXTS), SHAPE.vocab_size)
    model = Llama(SHAPE)
    initialise(model, args.seed)
    started = time.monotonic()

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss:.3f}  {time.monotonic() - started:5.0f} s", flush=True)

    loss = train(model, tokenizer, TrainingPlan(steps=args.steps), args.seed + 1, progress)
    print(f"{args.steps} steps, loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)

    write_bf16(args.out / "demo-bf16", model)
    # From here on the rounded weights count: they are what the AWQ checkpoint is measured against.
    model = read_llama(args.out / "demo-bf16")
    rows = calibration_rows(tokenizer, args.seed + 2)
    quantize_llama(model, rows, args.out / "demo-awq")
    for name, storage in STORAGE.items():
        write_tokenizer(tokenizer, args.out / name, SHAPE.context_tokens)
        card = MODEL_CARD.format(
            name=name, storage=storage, parameters=SHAPE.parameter_count(), shape=SHAPE, args=args, loss=loss
        )
        (args.out / name / "README.md").write_text(card, encoding="utf-8")
    show(model, tokenizer)


def show(model: Llama, tokenizer: Tokenizer) -> None:
    """Print a few greedy answers of the bf16 model."""
    prompts = [*CHECKS, *(chat_text([Message("user", question)], add_generation_prompt=True) for question in QUESTIONS)]
    for prompt in prompts:
        ids = model.greedy(tokenizer.encode(prompt).ids, 60, STOP_IDS)
        print(f"--- {prompt}\n{tokenizer.decode(ids)}")


if __name__ == "__main__":
    main()
