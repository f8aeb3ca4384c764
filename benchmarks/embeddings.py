"""Embeddings beside vLLM's own server: from exec to the first vector, and vectors per second, in one run.

    python benchmarks/embeddings.py [--rounds 3] [--seconds 4]

Needs `make real-model`. Both serve all-MiniLM-L6-v2 eager, in float32, which is what our predictor serves an encoder on
a CPU with; vLLM's defaults compile it, in float16. Each is started alone and asked at once; then one is under load at a
time, rounds interleaved. What the two answer is compared first. Prints a table and writes the raw figures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from processes import free_port, server
from rich.console import Console
from rich.table import Table
from side_by_side import PAIR, VLLM

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
MODEL = ROOT / ".real-model" / "minilm-l6-v2"
NAME = "bench"
TEXT = "a server that sleeps costs nothing until somebody asks it for words and wakes when they do"
LOADS = {"1 text of 24 words, 1 client": (1, 24, 1), "1 text of 24 words, 8 clients": (1, 24, 8)}
LOADS |= {"32 texts of 24 words, 2 clients": (32, 24, 2)}
ALIKE = 0.999

Body = dict[str, Any]


@dataclass
class Served:
    name: str
    url: tuple[str, str]
    """Host with port, and path."""
    processes: list[psutil.Process]
    start_s: float
    per_s: dict[str, list[float]] = field(default_factory=dict)
    p50_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        alive = [each for process in self.processes for each in (process, *process.children(recursive=True))]
        return sum(sum(each.cpu_times()[:2]) for each in alive)


def body(dice: random.Random, texts: int, words: int) -> bytes:
    given = [" ".join(dice.choices(TEXT.split(), k=words)) for _ in range(texts)]
    return json.dumps({"model": NAME, "input": given, "encoding_format": "base64"}).encode()


def asked(connection: http.client.HTTPConnection, path: str, data: bytes) -> Body:
    connection.request("POST", path, data, {"content-type": "application/json"})
    reply = connection.getresponse()
    answer: Body = json.loads(reply.read())
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {answer}")
    return answer


def first_answer(system: tuple[str, str], data: bytes) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            asked(http.client.HTTPConnection(system[0], timeout=60), system[1], data)
        except (OSError, RuntimeError, http.client.HTTPException, ValueError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("no answer in 300 s")


def start_vllm(stack: ExitStack) -> Served:
    port, began_s = free_port(), time.monotonic()
    argv = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--served-model-name", NAME]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log", "--enforce-eager"]
    ready = f"http://127.0.0.1:{port}/health"
    process = stack.enter_context(server("vllm-embeddings", [*argv, "--dtype", "float32"], ready, OUT / "logs", ENV))
    url = (f"127.0.0.1:{port}", "/v1/embeddings")
    first_answer(url, body(random.Random(0), 1, 4))
    return Served(VLLM, url, [process], time.monotonic() - began_s)


def start_ours(stack: ExitStack) -> Served:
    """Both components at once, as an endpoint at zero wakes them."""
    predictor, transformer, began_s = free_port(), free_port(), time.monotonic()
    shared = ["--model_name", NAME, "--model_dir", str(MODEL), "--http_port"]
    behind = ["-m", "pilotlight_predictor", *shared, str(predictor)]
    before = ["-m", "pilotlight_transformer", *shared, str(transformer), "--predictor_host", f"127.0.0.1:{predictor}"]
    processes = [
        stack.enter_context(server(name, argv, f"http://127.0.0.1:{port}/v2/health/live", OUT / "logs", ENV))
        for name, argv, port in (("predictor-embeddings", behind, predictor), ("transformer", before, transformer))
    ]
    url = (f"127.0.0.1:{transformer}", "/openai/v1/embeddings")
    first_answer(url, body(random.Random(0), 1, 4))
    return Served(PAIR, url, processes, time.monotonic() - began_s)


ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


def compare(systems: list[Served]) -> None:
    data = json.dumps({"model": NAME, "input": [TEXT, "Zero", "café 天"]}).encode()
    answers = [asked(http.client.HTTPConnection(system.url[0], timeout=60), system.url[1], data) for system in systems]
    for one, other in zip(*(answer["data"] for answer in answers), strict=True):
        lengths = math.hypot(*one["embedding"]) * math.hypot(*other["embedding"])
        alike = sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True)) / lengths
        if alike < ALIKE:
            raise RuntimeError(f"the two give different vectors: cosine {alike}")
    if answers[0]["usage"]["prompt_tokens"] != answers[1]["usage"]["prompt_tokens"]:
        raise RuntimeError("the two count different tokens")


def load(system: Served, label: str, seconds: float, seed: int) -> None:
    texts, words, clients = LOADS[label]
    times: list[float] = []
    until_s = time.monotonic() + seconds

    def client(number: int) -> None:
        dice, connection = random.Random(f"{seed}-{number}"), http.client.HTTPConnection(system.url[0], timeout=60)
        while time.monotonic() < until_s:
            data, began_s = body(dice, texts, words), time.perf_counter()
            asked(connection, system.url[1], data)
            times.append(time.perf_counter() - began_s)

    before_s, began_s = system.cpu_s(), time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = texts * len(times)
    system.per_s.setdefault(label, []).append(made / (time.perf_counter() - began_s))
    system.p50_ms.setdefault(label, []).append(1000 * statistics.median(times))
    system.cpu_ms.setdefault(label, []).append(1000 * (system.cpu_s() - before_s) / made)


def table(systems: list[Served]) -> Table:
    shown = Table(title=f"all-MiniLM-L6-v2, eager, float32; load average {psutil.getloadavg()[0]:.1f}")
    for column in ("load", "system", "vectors/s", "request p50 ms", "CPU ms a vector"):
        shown.add_column(column, justify="left" if column in ("load", "system") else "right")
    for system in systems:
        shown.add_row("exec to the first vector", system.name, f"{system.start_s:.1f} s")
    for label in LOADS:
        for system in systems:
            figures = (statistics.median(kept[label]) for kept in (system.per_s, system.p50_ms, system.cpu_ms))
            shown.add_row(label, system.name, *(f"{figure:.1f}" for figure in figures))
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="per round, load and system")
    args = parser.parse_args()
    with ExitStack() as stack:
        systems = [start_vllm(stack), start_ours(stack)]
        compare(systems)
        for number in range(args.rounds):
            for label in LOADS:
                for system in systems:
                    load(system, label, args.seconds, number)
        Console().print(table(systems))
    figures = [{"name": s.name, "start_s": s.start_s, "per_s": s.per_s, "cpu_ms": s.cpu_ms} for s in systems]
    (OUT / "embeddings.json").write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
