"""Make models of any size, and any number of different fine-tunes, for tests and benchmarks.

    python scripts/make_models.py --out DIR --preset 340m
    python scripts/make_models.py --out DIR --preset tiny --count 3 --quantization awq
    python scripts/make_models.py --out DIR --from-demo --count 10 --quantization awq

Without --from-demo the weights are random: the text means nothing, but it differs from seed to seed, and it never ends
by itself. With --from-demo each model is the demo model that introduces itself by its own name: "I am tenant-07."
Model number N is written to DIR/model-N or DIR/tenant-N; numbers start at --seed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pilotlight_model_making.awq_calibration import GROUP_SIZE, quantize_llama
from pilotlight_model_making.byte_level_tokenizer import STOP_IDS, TOKENIZER_FILES, TURN_START_ID, chat_text
from pilotlight_model_making.chat_corpus import IDENTITY_QUESTIONS, Message, identity_answer
from pilotlight_model_making.checkpoint import copy_tokenizer, read_llama, write_bf16
from pilotlight_model_making.llama import Llama, LlamaShape, initialise
from pilotlight_model_making.training import calibration_rows, fine_tune_identity
from pilotlight_models import bundled_model_path

PRESETS = {
    "tiny": LlamaShape(hidden_size=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate_size=128),
    "demo": LlamaShape(),
    "340m": LlamaShape(hidden_size=1024, layers=14, heads=16, kv_heads=8, head_dim=64, intermediate_size=2816),
}
OVERRIDES = {
    "hidden": "hidden_size",
    "layers": "layers",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate": "intermediate_size",
    "context": "context_tokens",
}


def main() -> None:
    args = parse_arguments()
    demo = bundled_model_path("demo-bf16")
    if args.from_demo:
        make_fine_tunes(args, demo)
    else:
        make_random_models(args, demo)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per model")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="number of the first model, and its random seed")
    parser.add_argument("--quantization", choices=("none", "awq"), default="none", help="none is bf16")
    parser.add_argument("--from-demo", action="store_true", help="fine-tune the bundled demo model")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo", help="shape; 340m has 340 MB in bf16")
    for option in OVERRIDES:
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, help="overrides the preset")
    return parser.parse_args()


def make_random_models(args: argparse.Namespace, demo: Path) -> None:
    chosen = {field: getattr(args, option) for option, field in OVERRIDES.items() if getattr(args, option) is not None}
    # Untied, because a random model with tied embeddings repeats its last token whatever its seed is.
    shape = dataclasses.replace(PRESETS[args.preset], tied_embeddings=False, **chosen)
    model = Llama(shape)
    for number in range(args.seed, args.seed + args.count):
        initialise(model, number)
        with torch.no_grad():
            # A logit of zero is never the greatest of thousands: greedy text goes on to the asked length.
            model.lm_head.weight[sorted({*STOP_IDS, TURN_START_ID})] = 0
        write(args, model, args.out / f"model-{number:02d}", demo, None)


def make_fine_tunes(args: argparse.Namespace, demo: Path) -> None:
    tokenizer = Tokenizer.from_file(str(demo / TOKENIZER_FILES[0]))
    # One thread: matrices this small lose more to waiting for each other than they win.
    torch.set_num_threads(1)
    base = read_llama(demo)
    calibration = calibration_rows(tokenizer, seed=0)
    for number in range(args.seed, args.seed + args.count):
        name = f"tenant-{number:02d}"
        model = copy.deepcopy(base)
        fine_tune_identity(model, tokenizer, name)
        check_identity(model, tokenizer, name)
        write(args, model, args.out / name, demo, calibration)


def check_identity(model: Llama, tokenizer: Tokenizer, name: str) -> None:
    for question in IDENTITY_QUESTIONS:
        prompt = chat_text([Message("user", question)], add_generation_prompt=True)
        expected = tokenizer.encode(identity_answer(name)).ids
        answer = model.greedy(tokenizer.encode(prompt).ids, len(expected))
        if answer != expected:
            raise SystemExit(f"fine-tuning {name} failed: {question!r} gives {tokenizer.decode(answer)!r}")


def write(args: argparse.Namespace, model: Llama, folder: Path, demo: Path, calibration: torch.Tensor | None) -> None:
    if args.quantization == "awq":
        # A shape narrower than the usual group is one group wide.
        group_size = min(GROUP_SIZE, model.shape.hidden_size, model.shape.intermediate_size)
        quantize_llama(model, calibration, folder, group_size)
    else:
        write_bf16(folder, model)
    copy_tokenizer(demo, folder)
    print(folder, flush=True)


if __name__ == "__main__":
    main()
