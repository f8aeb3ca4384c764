"""Train the adapters of the real model anew: models/adapters/smollm2-tools and smollm2-records.

    python scripts/make_adapters.py [--only tools] [--steps 70]

Needs `.real-model/smollm2-135m` (make real-model). Each is 1.8 MB and takes some minutes on two cores; they are kept in
the repository, so that tests have models that call functions without training one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jinja2 import Template
from tokenizers import Tokenizer
from torch import Tensor

from pilotlight_model_making.adapter_corpus import Lesson, record_lesson, tool_lesson
from pilotlight_model_making.checkpoint import read_llama
from pilotlight_model_making.low_rank import IGNORED, add_adapter, train_adapter, write_adapter
from pilotlight_text.templates.jinja_template import compiled

ROOT = Path(__file__).parents[1]
BASE = ROOT / ".real-model" / "smollm2-135m"
ADAPTERS = ROOT / "models" / "adapters"
LESSONS: dict[str, Callable[[random.Random], Lesson]] = {"tools": tool_lesson, "records": record_lesson}
RANK, ALPHA, ROWS, LEARNING_RATE = 8, 16.0, 3, 2e-3
ASSISTANT, TURN_END = "<|im_start|>assistant\n", "<|im_end|>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LESSONS)
    parser.add_argument("--steps", type=int, default=70)
    args = parser.parse_args()
    for name in [args.only] if args.only else LESSONS:
        make(name, args.steps)


def make(name: str, steps: int) -> None:
    torch.manual_seed(0)
    folder = ADAPTERS / f"smollm2-{name}"
    template = compiled((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    model = read_llama(BASE)
    add_adapter(model, RANK, ALPHA)
    started_s = time.monotonic()

    def progress(step: int, loss: float) -> None:
        if step % 10 == 9:
            sys.stdout.write(
                f"{name}: step {step + 1} of {steps}, loss {loss:.3f}, {time.monotonic() - started_s:.0f} s\n"
            )
            sys.stdout.flush()

    train_adapter(model, batches(name, template, tokenizer), steps, LEARNING_RATE, progress)
    write_adapter(folder, model, "smollm2-135m", RANK, ALPHA)
    dice = random.Random(99)  # noqa: S311 (sentences, not secrets)
    for _ in range(3):
        messages, tools = LESSONS[name](dice)
        prompt = template.render(messages=messages[:1], tools=tools, add_generation_prompt=True)
        ids = model.greedy(tokenizer.encode(prompt).ids, 48, frozenset((2,)))
        sys.stdout.write(f"{messages[0]['content']} → {tokenizer.decode(ids)!r}\n")


def batches(name: str, template: Template, tokenizer: Tokenizer) -> Iterator[tuple[Tensor, Tensor]]:
    dice = random.Random(1)  # noqa: S311 (sentences, not secrets)
    while True:
        rows = [row(LESSONS[name](dice), template, tokenizer) for _ in range(ROWS)]
        length = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows]),
        )


def row(lesson: Lesson, template: Template, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids and labels: the assistant's turns with their end are what is learned."""
    messages, tools = lesson
    text = template.render(messages=messages, tools=tools, add_generation_prompt=False)
    ids: list[int] = []
    labels: list[int] = []
    while text:
        before, mark, after = text.partition(ASSISTANT)
        heard = tokenizer.encode(before + mark).ids
        turn, end, text = after.partition(TURN_END)
        said = tokenizer.encode(turn + end).ids
        ids += heard + said
        labels += [IGNORED] * len(heard) + said
    return ids, labels


if __name__ == "__main__":
    main()
