"""What predictor and transformer cost beside vLLM's own OpenAI server: same model, flags and prompts, one run.

    python benchmarks/overhead.py [--model demo|340m] [--rounds 3]

Three servers run side by side, one under load at a time, rounds interleaved. Every stream generates exactly
`--output_tokens` tokens (`ignore_eos`). Prints a table and writes a picture and the raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from rich.console import Console
from side_by_side import (
    PAIR,
    PREDICTOR,
    VLLM,
    Cell,
    Cells,
    Event,
    Sample,
    System,
    picture,
    start_servers,
    table,
    usage_tokens,
)

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
NAME = "bench"


def id_tokens(event: Event) -> int:
    ids = event.get("output_ids")
    return len(ids) if isinstance(ids, list) else 0


def openai_body(ids: list[int], tokens: int) -> dict[str, object]:
    return {
        "model": NAME,
        "prompt": ids,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def tokens_body(ids: list[int], tokens: int) -> dict[str, object]:
    return {"input_ids": ids, "parameters": {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}}


def start_systems(stack: ExitStack, model_dir: Path) -> list[System]:
    of = start_servers(stack, model_dir, NAME, OUT / "logs")
    return [
        System(VLLM, f"http://127.0.0.1:{of.vllm_port}/v1/completions", usage_tokens, [("server", of.vllm)]),
        System(
            PREDICTOR,
            f"http://127.0.0.1:{of.predictor_port}/v2/models/{NAME}/generate_stream",
            id_tokens,
            [("predictor", of.predictor)],
        ),
        System(
            PAIR,
            f"http://127.0.0.1:{of.transformer_port}/openai/v1/completions",
            usage_tokens,
            [("predictor", of.predictor), ("transformer", of.transformer)],
        ),
    ]


def measure(system: System, concurrency: int, prompts: list[list[int]], tokens: int) -> Sample:
    body = tokens_body if system.name == PREDICTOR else openai_body
    sample = system.measure([body(ids, tokens) for ids in prompts], concurrency)
    expected = tokens * len(prompts)
    if sample.load.tokens != expected:
        raise RuntimeError(f"{system.name} generated {sample.load.tokens} tokens, {expected} were asked for")
    return sample


def make_model(args: argparse.Namespace) -> Path:
    if args.model == "demo":
        return ROOT / "models" / "pilotlight_models" / "demo-awq"
    out = OUT / "models" / args.model
    if not out.exists():
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "scripts" / "make_models.py"),
                "--out",
                str(out),
                "--preset",
                args.model,
                "--count",
                "1",
            ],
            check=True,
        )
    config: Path = next(out.rglob("config.json"))
    return config.parent


def streams(level: int) -> str:
    return f"{level} stream{'s' if level > 1 else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["demo", "340m"], default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--output_tokens", type=int, default=64)
    parser.add_argument("--prompt_tokens", type=int, default=64)
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    model_dir = make_model(args)
    vocabulary = json.loads((model_dir / "config.json").read_text())["vocab_size"]
    dice = random.Random(7)
    per_level = {level: max(3 * level, 6) if args.model == "demo" else max(level, 3) for level in args.levels}
    cells: Cells = {}
    console = Console(width=150)
    with ExitStack() as stack:
        systems = start_systems(stack, model_dir)
        for system in systems:
            measure(
                system, 4, [[dice.randrange(10, vocabulary) for _ in range(args.prompt_tokens)] for _ in range(4)], 16
            )
        for number in range(args.rounds):
            for level in args.levels:
                prompts = [
                    [dice.randrange(10, vocabulary) for _ in range(args.prompt_tokens)] for _ in range(per_level[level])
                ]
                for system in systems if number % 2 == 0 else reversed(systems):
                    sample = measure(system, level, prompts, args.output_tokens)
                    cells.setdefault((system.name, streams(level)), Cell()).samples.append(sample)
                    console.print(
                        f"round {number + 1}, c={level}, {system.name}: {sample.load.tokens_per_s:.0f} tokens/s"
                    )
    names, loads = [VLLM, PREDICTOR, PAIR], [streams(level) for level in args.levels]
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    title = f"{args.model}: {args.prompt_tokens} prompt + {args.output_tokens} output tokens, {machine}"
    console.print(table(cells, names, loads, title))
    picture(cells, names, loads, title, OUT / f"overhead-{args.model}.png")
    raw = {f"{name}, {load}": cell.raw() for (name, load), cell in cells.items()}
    (OUT / f"overhead-{args.model}.json").write_text(json.dumps(raw, indent=1))
    console.print(f"picture: benchmarks/out/overhead-{args.model}.png")


if __name__ == "__main__":
    main()
