"""Servers that are compared under the same load, one at a time: what a round gave, the table and the picture.

`Cell`s are keyed by (system, workload). CPU is counted by process: server (vLLM's own), predictor, transformer, engine.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from processes import cpu_by_role, free_port, server
from rich.console import Console
from rich.table import Table
from stream_load import LoadResult, run_load

ROLES = {"EngineCore": "engine", "pilotlight_engine.host": "engine", "Worker": "engine"}
VLLM, PREDICTOR, PAIR = "vLLM server", "predictor", "transformer + predictor"

Event = dict[str, object]


@dataclass
class System:
    """`count`: tokens that an event of its stream reports."""

    name: str
    url: str
    count: Callable[[Event], int]
    processes: list[tuple[str, psutil.Process]]

    def cpu(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for role, process in self.processes:
            for name, seconds in cpu_by_role(process, ROLES, role).items():
                spent[name] = spent.get(name, 0.0) + seconds
        return spent

    def measure(self, bodies: Sequence[dict[str, object]], concurrency: int, path: str = "") -> Sample:
        before = self.cpu()
        load = asyncio.run(run_load(self.url + path, bodies, concurrency, self.count))
        return Sample(load, {role: seconds - before.get(role, 0.0) for role, seconds in self.cpu().items()})


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
            gaps = sorted(gap for stream in sample.load.streams for gap in stream.gaps_s) or [0.0]
            return 1000 * gaps[min(len(gaps) - 1, len(gaps) * percentile // 100)]

        return self.median(figure)

    def cpu_per_1k(self, role: str) -> float:
        return self.median(lambda sample: 1000 * sample.cpu_s.get(role, 0.0) / sample.load.tokens)

    def raw(self) -> list[dict[str, object]]:
        return [
            {"tokens_per_s": s.load.tokens_per_s, "ttft_s": [x.ttft_s for x in s.load.streams], "cpu_s": s.cpu_s}
            for s in self.samples
        ]


@dataclass(frozen=True)
class Servers:
    """vLLM's own server, and a transformer before a predictor, each with its port."""

    vllm: psutil.Process
    vllm_port: int
    predictor: psutil.Process
    predictor_port: int
    transformer: psutil.Process
    transformer_port: int


def start_servers(stack: ExitStack, model_dir: Path, name: str, logs: Path, *vllm_flags: str) -> Servers:
    """All three serve `model_dir` as `name`, eager, 1,024 tokens of context, no prefix cache."""
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    vllm_port, predictor_port, transformer_port = free_port(), free_port(), free_port()
    flags = {"max_model_len": "1024", "enforce_eager": "true", "max_num_seqs": "64"}
    flags["enable_prefix_caching"] = "false"

    def start(role: str, argv: list[str], port: int, path: str) -> psutil.Process:
        Console().print(f"starting {role} …")
        return stack.enter_context(server(role.replace(" ", "-"), argv, f"http://127.0.0.1:{port}{path}", logs, env))

    vllm = start(
        VLLM,
        ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir), "--served-model-name", name]
        + ["--host", "127.0.0.1", "--port", str(vllm_port), "--disable-uvicorn-access-log"]
        + ["--max-model-len", flags["max_model_len"], "--enforce-eager", "--max-num-seqs", flags["max_num_seqs"]]
        + ["--no-enable-prefix-caching", "--scheduling-policy", "priority", *vllm_flags],
        vllm_port,
        "/health",
    )
    predictor = start(
        PREDICTOR,
        ["-m", "pilotlight_predictor", "--model_name", name, "--model_dir", str(model_dir)]
        + ["--http_port", str(predictor_port)]
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
    return Servers(vllm, vllm_port, predictor, predictor_port, transformer, transformer_port)


Cells = dict[tuple[str, str], Cell]


def usage_tokens(event: Event) -> int:
    """Of OpenAI's streams: both servers are asked for usage, and only the last event carries it."""
    usage = event.get("usage")
    return int(usage["completion_tokens"]) if isinstance(usage, dict) and not event.get("choices") else 0


def table(cells: Cells, systems: Sequence[str], workloads: Sequence[str], title: str) -> Table:
    shown = Table(title=title)
    for column in ("load", "system", "tokens/s", "× vLLM", "TTFT ms", "ITL p50 ms", "ITL p99 ms"):
        shown.add_column(column, justify="left" if column in ("load", "system") else "right")
    for role in ("server", "predictor", "transformer", "engine"):
        shown.add_column(role, justify="right")
    for workload in workloads:
        base = cells[VLLM, workload].tokens_per_s
        for name in systems:
            cell = cells[name, workload]
            cpu = [cell.cpu_per_1k(role) for role in ("server", "predictor", "transformer", "engine")]
            shown.add_row(
                workload,
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


def picture(cells: Cells, systems: Sequence[str], workloads: Sequence[str], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(max(11.0, 1.9 * len(workloads)), 4.2), layout="constrained")
    colours = {"server": "#7f8c8d", "predictor": "#e67e22", "transformer": "#2980b9"}
    width = 0.8 / len(systems)
    for number, name in enumerate(systems):
        places = [index + (number - (len(systems) - 1) / 2) * width for index in range(len(workloads))]
        left.bar(places, [cells[name, workload].tokens_per_s for workload in workloads], width, label=name)
        bottoms = [0.0] * len(workloads)
        for role, colour in colours.items():
            heights = [cells[name, workload].cpu_per_1k(role) for workload in workloads]
            right.bar(places, heights, width, bottom=bottoms, color=colour, label=role if any(heights) else None)
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
    left.set_ylabel("output tokens/s")
    right.set_ylabel("CPU seconds per 1k tokens, engine left out")
    for axes in (left, right):
        axes.set_xticks(range(len(workloads)), workloads, fontsize=8)
        axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    left.legend(fontsize=8)
    labels = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    right.legend(labels.values(), labels.keys(), fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
