"""What predictor and transformer cost beside vLLM's own OpenAI server: same model, flags and prompts, one run.

    python benchmarks/overhead.py [--model demo|340m] [--rounds 3]

Three servers run side by side, one under load at a time, rounds interleaved. Every stream generates exactly
`--output_tokens` tokens (`ignore_eos`). Prints a table and writes a picture and the raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from processes import cpu_by_role, free_port, server
from rich.console import Console
from rich.table import Table
from stream_load import LoadResult, run_load

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
ROLES = {"EngineCore": "engine", "pilotlight_engine.host": "engine", "Worker": "engine"}
VLLM, PREDICTOR, PAIR = "vLLM server", "predictor", "transformer + predictor"


@dataclass
class System:
    name: str
    url: str
    body: Callable[[list[int], int], dict[str, object]]
    count: Callable[[dict[str, object]], int]
    processes: list[tuple[str, psutil.Process]]

    def cpu(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for role, process in self.processes:
            for name, seconds in cpu_by_role(process, ROLES, role).items():
                spent[name] = spent.get(name, 0.0) + seconds
        return spent


@dataclass
class Sample:
    load: LoadResult
    cpu_s: dict[str, float]


@dataclass
class Cell:
    samples: list[Sample] = field(default_factory=list)

    def median(self, figure: Callable[[Sample], float]) -> float:
        return statistics.median(figure(sample) for sample in self.samples)

    @property
    def tokens_per_s(self) -> float:
        return self.median(lambda sample: sample.load.tokens_per_s)

    @property
    def ttft_ms(self) -> float:
        return self.median(lambda sample: 1000 * statistics.median(s.ttft_s for s in sample.load.streams))

    def gap_ms(self, percentile: int) -> float:
        def figure(sample: Sample) -> float:
            gaps = sorted(gap for stream in sample.load.streams for gap in stream.gaps_s)
            return 1000 * gaps[min(len(gaps) - 1, len(gaps) * percentile // 100)]

        return self.median(figure)

    def cpu_per_1k(self, role: str) -> float:
        return self.median(lambda sample: 1000 * sample.cpu_s.get(role, 0.0) / sample.load.tokens)


def text_tokens(event: dict[str, object]) -> int:
    """vLLM and our transformer are asked for usage; only the last event carries it."""
    usage = event.get("usage")
    return int(usage["completion_tokens"]) if isinstance(usage, dict) and not event.get("choices") else 0


def id_tokens(event: dict[str, object]) -> int:
    ids = event.get("output_ids")
    return len(ids) if isinstance(ids, list) else 0


def openai_body(model: str) -> Callable[[list[int], int], dict[str, object]]:
    return lambda ids, tokens: {
        "model": model,
        "prompt": ids,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def tokens_body(ids: list[int], tokens: int) -> dict[str, object]:
    return {"input_ids": ids, "parameters": {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}}


def start_systems(stack: ExitStack, model_dir: Path, args: argparse.Namespace) -> list[System]:
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    logs = OUT / "logs"
    vllm_port, predictor_port, transformer_port = free_port(), free_port(), free_port()
    flags = {"max_model_len": "1024", "enforce_eager": "true", "max_num_seqs": "64", "enable_prefix_caching": "false"}
    name = "bench"

    def start(role: str, argv: list[str], port: int, path: str) -> psutil.Process:
        Console().print(f"starting {role} …")
        return stack.enter_context(server(role.replace(" ", "-"), argv, f"http://127.0.0.1:{port}{path}", logs, env))

    vllm = start(
        VLLM,
        ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir), "--served-model-name", name]
        + ["--host", "127.0.0.1", "--port", str(vllm_port), "--disable-uvicorn-access-log"]
        + ["--max-model-len", flags["max_model_len"], "--enforce-eager", "--max-num-seqs", flags["max_num_seqs"]]
        + ["--no-enable-prefix-caching", "--scheduling-policy", "priority"],
        vllm_port,
        "/health",
    )
    predictor = start(
        PREDICTOR,
        [
            "-m",
            "pilotlight_predictor",
            "--model_name",
            name,
            "--model_dir",
            str(model_dir),
            "--http_port",
            str(predictor_port),
        ]
        + [word for key, value in flags.items() for word in ("--engine_arg", f"{key}={value}")],
        predictor_port,
        "/v2/health/ready",
    )
    transformer = start(
        "transformer",
        ["-m", "pilotlight_transformer", "--model_name", name, "--model_dir", str(model_dir)]
        + ["--predictor_host", f"127.0.0.1:{predictor_port}", "--http_port", str(transformer_port)],
        transformer_port,
        "/v2/health/ready",
    )
    return [
        System(
            VLLM, f"http://127.0.0.1:{vllm_port}/v1/completions", openai_body(name), text_tokens, [("server", vllm)]
        ),
        System(
            PREDICTOR,
            f"http://127.0.0.1:{predictor_port}/v2/models/{name}/generate_stream",
            tokens_body,
            id_tokens,
            [("predictor", predictor)],
        ),
        System(
            PAIR,
            f"http://127.0.0.1:{transformer_port}/openai/v1/completions",
            openai_body(name),
            text_tokens,
            [("predictor", predictor), ("transformer", transformer)],
        ),
    ]


def measure(system: System, concurrency: int, prompts: list[list[int]], tokens: int) -> Sample:
    before = system.cpu()
    load = asyncio.run(run_load(system.url, [system.body(ids, tokens) for ids in prompts], concurrency, system.count))
    after = system.cpu()
    expected = tokens * len(prompts)
    if load.tokens != expected:
        raise RuntimeError(f"{system.name} generated {load.tokens} tokens, {expected} were asked for")
    return Sample(load, {role: seconds - before.get(role, 0.0) for role, seconds in after.items()})


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


def table(cells: dict[tuple[str, int], Cell], systems: list[str], levels: list[int], title: str) -> Table:
    shown = Table(title=title)
    for column in (
        "streams",
        "system",
        "tokens/s",
        "× vLLM",
        "TTFT ms",
        "ITL p50 ms",
        "ITL p99 ms",
        "server",
        "predictor",
        "transformer",
        "engine",
    ):
        shown.add_column(column, justify="left" if column == "system" else "right")
    for level in levels:
        base = cells[VLLM, level].tokens_per_s
        for name in systems:
            cell = cells[name, level]
            cpu = [cell.cpu_per_1k(role) for role in ("server", "predictor", "transformer", "engine")]
            shown.add_row(
                str(level),
                name,
                f"{cell.tokens_per_s:.0f}",
                f"{cell.tokens_per_s / base:.2f}",
                f"{cell.ttft_ms:.1f}",
                f"{cell.gap_ms(50):.1f}",
                f"{cell.gap_ms(99):.1f}",
                *(f"{seconds:.3f}" if seconds else "" for seconds in cpu),
            )
        shown.add_section()
    shown.caption = "server … engine: CPU seconds of each process per 1,000 generated tokens. Medians over the rounds."
    return shown


def picture(cells: dict[tuple[str, int], Cell], systems: list[str], levels: list[int], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = {"server": "#7f8c8d", "predictor": "#e67e22", "transformer": "#2980b9", "engine": "#dfe6e9"}
    width = 0.26
    for offset, name in enumerate(systems):
        places = [index + (offset - 1) * width for index in range(len(levels))]
        left.bar(places, [cells[name, level].tokens_per_s for level in levels], width, label=name)
        bottoms = [0.0] * len(levels)
        for role in ("server", "predictor", "transformer"):
            heights = [cells[name, level].cpu_per_1k(role) for level in levels]
            right.bar(
                places, heights, width, bottom=bottoms, color=colours[role], label=role if offset in (0, 2) else None
            )
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
        for place, height in zip(places, bottoms, strict=True):
            right.text(place, height, name.split()[0], rotation=90, ha="center", va="bottom", fontsize=7)
    left.set_ylabel("output tokens/s")
    right.set_ylabel("CPU seconds per 1k tokens, engine left out")
    for axes in (left, right):
        axes.set_xticks(range(len(levels)), [f"{level} streams" for level in levels])
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    left.legend(fontsize=8)
    labels = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    right.legend(labels.values(), labels.keys(), fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


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
    cells: dict[tuple[str, int], Cell] = {}
    console = Console(width=150)
    with ExitStack() as stack:
        systems = start_systems(stack, model_dir, args)
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
                    cells.setdefault((system.name, level), Cell()).samples.append(sample)
                    console.print(
                        f"round {number + 1}, c={level}, {system.name}: {sample.load.tokens_per_s:.0f} tokens/s"
                    )
    names = [VLLM, PREDICTOR, PAIR]
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    title = f"{args.model}: {args.prompt_tokens} prompt + {args.output_tokens} output tokens, {machine}"
    console.print(table(cells, names, args.levels, title))
    picture(cells, names, args.levels, title, OUT / f"overhead-{args.model}.png")
    raw = {
        f"{name} c={level}": [
            {"tokens_per_s": s.load.tokens_per_s, "ttft_s": [x.ttft_s for x in s.load.streams], "cpu_s": s.cpu_s}
            for s in cell.samples
        ]
        for (name, level), cell in cells.items()
    }
    (OUT / f"overhead-{args.model}.json").write_text(json.dumps(raw, indent=1))
    console.print(f"picture: benchmarks/out/overhead-{args.model}.png")


if __name__ == "__main__":
    main()
