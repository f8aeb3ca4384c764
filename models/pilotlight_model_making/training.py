"""Trains a small Llama on the corpus, and fine-tunes copies of it.

Responsible for documents, rows and optimiser steps. Deterministic for a given seed, thread count and CPU type; it
reads no clock and writes no files.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from pilotlight_model_making.byte_level_tokenizer import END_OF_TEXT_ID, chat_text
from pilotlight_model_making.chat_corpus import IDENTITY_QUESTIONS, Message, chat, fact, identity_answer
from pilotlight_model_making.llama import Llama
from pilotlight_model_making.story_corpus import story

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train. One step sees `rows * row_tokens` tokens."""

    steps: int
    rows: int = 4
    row_tokens: int = 512
    peak_learning_rate: float = 3e-3
    warmup_steps: int = 60
    long_share: float = 0.15
    """The last share of the steps uses single rows of the whole context, so that long answers stay fluent."""


def documents(random_source: random.Random) -> Iterator[str]:
    """Yield training documents without end: stories, facts and conversations in ChatML."""
    while True:
        draw = random_source.random()
        if draw < 0.32:
            paragraphs = story(random_source, chapters=random_source.choice((0, 0, 0, 1, 2, 3, 5, 8))).split("\n\n")
            # Some start later, because a prompt may be any paragraph of a story.
            yield "\n\n".join(paragraphs[random_source.choice((0, 0, 0, 0, 1)) :])
        elif draw < 0.5:
            yield fact(random_source)
        else:
            yield chat_text(chat(random_source))


def train(model: Llama, tokenizer: Tokenizer, plan: TrainingPlan, seed: int, progress: Progress) -> float:
    """Train `model` in place and return the mean loss (nats per token) of the last fifty steps."""
    stream = documents(random.Random(seed))  # noqa: S311 (text, not secrets)
    optimisers = _optimisers(model, plan)
    losses: list[float] = []
    first_long_step = int(plan.steps * (1 - plan.long_share))
    for step in range(plan.steps):
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = group["peak_lr"] * _schedule(step, plan)
        if step < first_long_step:
            batch = torch.tensor([_row(stream, tokenizer, plan.row_tokens) for _ in range(plan.rows)])
        else:
            batch = torch.tensor([_row(stream, tokenizer, model.shape.context_tokens)])
        losses.append(_step(model, optimisers, batch))
        progress(step, sum(losses[-50:]) / len(losses[-50:]))
    return sum(losses[-50:]) / len(losses[-50:])


def calibration_rows(tokenizer: Tokenizer, seed: int, rows: int = 16, row_tokens: int = 256) -> Tensor:
    """Return text for calibrating a quantizer, `int64[rows, row_tokens]`."""
    stream = documents(random.Random(seed))  # noqa: S311 (text, not secrets)
    return torch.tensor([_row(stream, tokenizer, row_tokens) for _ in range(rows)])


def fine_tune_identity(model: Llama, tokenizer: Tokenizer, name: str, steps: int = 12) -> None:
    """Train the last block of `model` in place until it introduces itself as `name`."""
    texts = [
        chat_text([Message("user", question), Message("assistant", identity_answer(name))])
        for question in IDENTITY_QUESTIONS
    ]
    rows = [tokenizer.encode(text).ids for text in texts]
    length = max(len(row) for row in rows)
    batch = torch.tensor([row + [END_OF_TEXT_ID] * (length - len(row)) for row in rows])
    last_block = list(model.blocks())[-1]
    model.requires_grad_(False)
    last_block.requires_grad_(True)
    optimiser = torch.optim.AdamW(last_block.parameters(), lr=2e-3, weight_decay=0.0)
    for _ in range(steps):
        _step(model, [optimiser], batch)
    model.requires_grad_(True)


def _optimisers(model: Llama, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, because it needs far fewer steps there; AdamW for the rest."""
    matrices = [p for block in model.blocks() for p in block.parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if not (".layers." in name and p.ndim == 2)]
    rate = plan.peak_learning_rate
    return [
        torch.optim.Muon(
            [{"params": matrices, "peak_lr": rate}], lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [{"params": others, "peak_lr": rate}], lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True
        ),
    ]


def _step(model: Llama, optimisers: Sequence[torch.optim.Optimizer], batch: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
    return float(loss.detach())


def _row(stream: Iterator[str], tokenizer: Tokenizer, length: int) -> list[int]:
    # Every row starts with a document's first token, because prompts have no beginning-of-text token before them.
    ids: list[int] = []
    while len(ids) < length:
        ids += [*tokenizer.encode(next(stream)).ids, END_OF_TEXT_ID]
    return ids[:length]


def _schedule(step: int, plan: TrainingPlan) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
