"""Time to the first token of the quickstart under load, where the autoscaler asks for more pods than there are slots.

    replicas.py [--label NAME] [MAX_REPLICAS...]

The quickstart as shipped but for `maxReplicas`: 200 clients stream one chat after another through `pilotlight up`, a
tenth of them hangs up mid-stream, and the autoscaler chooses the pods. The wait for the first token is split by what an
answer's Server-Timing says of it: for a pod (`activate`), for a place in the engine's batch (`queue`), for the engine's
work on the prompt (`prefill`); the rest is the wait for the pod's lease, and every hop's own time. Refusals (503) count
apart: the client comes again after what Retry-After says. Raw figures and a picture of every label measured go to
benchmarks/out. To measure another commit, run this file with that checkout's Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib as mpl
import psutil
import yaml
from endpoints_at_zero import is_healthy
from processes import free_port
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
import matplotlib.pyplot as plt

GOAL_RATIO = 3.0
STREAMS = 200
RUN_S = 60.0
WARM_S = 15.0
REQUEST_DEADLINE_S = 120.0
PLATFORM_DEADLINE_S = 60.0
HANGS_UP = 0.1
WAITS = ("activate", "queue", "prefill", "rest")
OUT = Path(__file__).parent / "out"
QUICKSTART = Path(__file__).parents[1] / "inferenceservices" / "quickstart.yaml"


@dataclass
class Answer:
    """`phases_s`: Server-Timing's, those of one name summed over the hops."""

    what: str
    ttft_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)


@dataclass
class Seen:
    """Of the answers that ended after the warm-up. `pods`: how many predictor pods there were, second by second."""

    max_replicas: int
    load_before: float
    ttft_s: list[float] = field(default_factory=list)
    waits_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WAITS})
    counts: dict[str, int] = field(default_factory=dict)
    pods: list[int] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        self.counts[answer.what] = self.counts.get(answer.what, 0) + 1
        if answer.ttft_s:
            self.ttft_s.append(answer.ttft_s)
            told_s = [answer.phases_s.get(name, 0.0) for name in WAITS[:-1]]
            for name, wait_s in zip(WAITS, [*told_s, answer.ttft_s - sum(told_s)], strict=True):
                self.waits_s[name].append(wait_s)


def percentile(values: Sequence[float], percent: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))] if ranked else 0.0


def phases_of(header: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, duration_ms in re.findall(r"(\w+);dur=([0-9.]+)", header):
        found[name] = found.get(name, 0.0) + float(duration_ms) / 1e3
    return found


async def one_chat(port: int, rng: random.Random, number: int) -> Answer:
    payload = {
        "model": "quickstart",
        "messages": [{"role": "user", "content": f"Tell me about number {number}, please."}],
        "stream": True,
        "max_tokens": rng.randint(16, 64),
        "temperature": 0,
    }
    body = json.dumps(payload).encode()
    head = (
        "POST /serving/default/quickstart/openai/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    hangs_up = rng.random() < HANGS_UP
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        status, headers = await _head(reader)
        if status == 503:
            await asyncio.sleep(min(float(headers.get("retry-after", "1")), 5.0) * (0.5 + rng.random()))
            return Answer("refused (503)")
        if status != 200:
            return Answer(f"status {status}")
        answer, events = Answer("cut", phases_s=phases_of(headers.get("server-timing", ""))), 0
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                answer.what = "done"
                break
            if line.startswith(b"data:") and b'"content"' in line:
                events += 1
                answer.ttft_s = answer.ttft_s or time.perf_counter() - began_s
                if hangs_up and events > 3:
                    answer.what = "hung up"
                    break
        return answer
    finally:
        writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = int((await reader.readline()).split()[1])
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip().decode():
        name, _, value = line.partition(":")
        held = headers.get(name.lower())
        headers[name.lower()] = value.strip() if held is None else f"{held}, {value.strip()}"
    return status, headers


async def client(port: int, seed: int, until_s: float, counted_from_s: float, seen: Seen) -> None:
    rng = random.Random(seed)
    while time.perf_counter() < until_s:
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                answer = await one_chat(port, rng, seed)
        except (OSError, TimeoutError, IndexError) as error:
            answer = Answer(type(error).__name__)
        if time.perf_counter() >= counted_from_s:
            seen.add(answer)


async def load(port: int, platform_pid: int, seen: Seen) -> None:
    now_s = time.perf_counter()
    until_s = now_s + WARM_S + RUN_S
    counting = asyncio.create_task(count_pods(platform_pid, seen.pods))
    await asyncio.gather(*(client(port, seed, until_s, now_s + WARM_S, seen) for seed in range(STREAMS)))
    counting.cancel()


async def count_pods(platform_pid: int, pods: list[int]) -> None:
    """A pod is a process; to look is cheaper than to ask the platform, which is under load."""
    while True:
        await asyncio.sleep(1.0)
        pods.append(predictors_of(platform_pid))


def predictors_of(platform_pid: int) -> int:
    found = 0
    for child in psutil.Process(platform_pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += "pilotlight_predictor" in child.cmdline()
    return found


def measure(max_replicas: int, folder: Path) -> Seen:
    spec = yaml.safe_load(QUICKSTART.read_text())
    spec["spec"]["predictor"].update(maxReplicas=max_replicas)
    (folder / "quickstart.yaml").write_text(yaml.safe_dump(spec))
    port, state_dir = free_port(), folder / "state"
    argv = [
        sys.executable,
        "-m",
        "pilotlight_local",
        "up",
        "--no-gateway",
        str(folder / "quickstart.yaml"),
        "--port",
        str(port),
    ]
    seen = Seen(max_replicas, os.getloadavg()[0])
    with (folder / "up.log").open("wb") as log:
        platform = subprocess.Popen([*argv, "--state-dir", str(state_dir)], stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + PLATFORM_DEADLINE_S
        while not is_healthy(port):
            if time.monotonic() > until_s or platform.poll() is not None:
                raise SystemExit(f"the platform did not come up: {folder / 'up.log'}")
            time.sleep(0.1)
        first = asyncio.run(one_chat(port, random.Random(1), 0))
        if first.what not in {"done", "hung up"}:
            raise SystemExit(f"the first request: {first.what}")
        asyncio.run(load(port, platform.pid, seen))
    finally:
        platform.terminate()
        platform.wait(PLATFORM_DEADLINE_S)
    if not seen.ttft_s:
        raise SystemExit(f"no first token at all: {dict(seen.counts)}")
    return seen


def table(runs: Sequence[Seen]) -> Table:
    view = Table(title=f"{STREAMS} clients, {RUN_S:.0f} s, one slot; goal: p99 within {GOAL_RATIO:.0f}x of p50")
    for name in ("maxReplicas (most pods)", "TTFT p50", "p95", "p99", "p99 / p50", *(f"{w} p50 / p99" for w in WAITS)):
        view.add_column(name, justify="right")
    view.add_column("what became of the requests")
    for seen in runs:
        p50_s, p95_s, p99_s = (percentile(seen.ttft_s, percent) for percent in (50, 95, 99))
        waits = [[percentile(seen.waits_s[name], p) for p in (50, 99)] for name in WAITS]
        view.add_row(
            f"{seen.max_replicas} ({max(seen.pods, default=0)})", f"{p50_s:.2f} s", f"{p95_s:.2f} s", f"{p99_s:.2f} s",
            f"{p99_s / p50_s:.1f}", *(f"{p50:.2f} / {p99:.2f} s" for p50, p99 in waits),
            ", ".join(f"{count} {what}" for what, count in sorted(seen.counts.items())),
        )  # fmt: skip
    return view


def draw(path: Path) -> None:
    """Every label's runs beside each other: which part of the requests had its first token after how long."""
    sheet, axes = plt.subplots(figsize=(9, 5))
    for number, source in enumerate(sorted(OUT.glob("replicas-*.json"))):
        for run, style in zip(json.loads(source.read_text()), ("-", "--", ":", "-."), strict=False):
            ranked = sorted(run["ttft_s"])
            late = [1.0 - place / len(ranked) for place in range(len(ranked))]
            name = f"{source.stem.removeprefix('replicas-')}, up to {run['max_replicas']} pods"
            axes.plot(ranked, late, style, color=f"C{number}", label=name)
    axes.set(
        xscale="log", yscale="log", xlabel="seconds to the first token", ylabel="part of the requests that waits longer"
    )
    axes.axhline(0.01, color="gray", linewidth=0.5)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    sheet.tight_layout()
    sheet.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("max_replicas", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--label", default="now", help="the raw figures' name, and the curves' in the picture")
    options = parser.parse_args()
    runs = []
    for most in options.max_replicas:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(most, Path(folder)))
    Console(width=190).print(table(runs))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"replicas-{options.label}.json").write_text(json.dumps([asdict(seen) for seen in runs]))
    draw(OUT / "replicas.png")


if __name__ == "__main__":
    main()
