"""What a gateway costs: ours, the Rust `vllm-router` and LiteLLM's proxy before the same canned backend, one run.

    python benchmarks/gateway.py [--rounds 3] [--seconds 3]

The gateway has one core, backend and load the other. Whole answers over 1, 16 and 64 connections, then 32 streams of
100 tokens, an event per token every 20 ms. Rounds are interleaved, figures are medians; time to the first token is told
beside that of the backend itself. Ours has keys, limits and routing on; LiteLLM its key; the router has none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from gateway_peers import DIRECT, ROOT, Gateway, litellm, ours, vllm_router
from gateway_picture import draw
from processes import cpu_seconds, free_port, server
from request_load import RequestLoad, run_requests
from rich.console import Console
from rich.table import Table
from stream_load import LoadResult, run_load

LOGS = ROOT / "benchmarks" / "out" / "logs"
PICTURE = ROOT / "benchmarks" / "out" / "gateway.png"
PER_REQUEST, PER_TOKEN = "CPU µs per request", "CPU µs per streamed token"
FIRST, MEMORY = "ms to the first token, more than the backend itself", "MB of memory"
GOALS = {PER_REQUEST: 150.0, PER_TOKEN: 17.0, FIRST: 0.5, MEMORY: 120.0}
CONNECTIONS = (1, 16, 64)
STREAMS, TOKENS = 32, 100
BODY: dict[str, object] = {"model": "demo", "messages": [{"role": "user", "content": "Say something, please."}]}


@dataclass
class Measured:
    """`whole`: by number of connections; CPU in µs per request and per token, memory in bytes."""

    whole: dict[int, list[RequestLoad]] = field(default_factory=dict)
    request_us: dict[int, list[float]] = field(default_factory=dict)
    streams: list[LoadResult] = field(default_factory=list)
    token_us: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    rss_bytes: int = 0


def on_core(core: int) -> tuple[str, ...]:
    return ("taskset", "-c", str(core))


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    return sum(map(cpu_seconds, family(process)))


def request(gateway: Gateway, port: int) -> bytes:
    body = json.dumps(BODY).encode()
    headers = {
        "host": f"127.0.0.1:{port}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **gateway.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {gateway.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def measure(gateway: Gateway, port: int, process: psutil.Process, seconds: float, into: Measured) -> None:
    for connections in CONNECTIONS:
        before_s = cpu_s(process)
        answers = asyncio.run(run_requests("127.0.0.1", port, request(gateway, port), connections, seconds))
        if answers.failed:
            raise RuntimeError(f"{gateway.name}: {answers.failed} of {len(answers.latencies_s)} requests failed")
        into.whole.setdefault(connections, []).append(answers)
        spent_us = 1e6 * (cpu_s(process) - before_s) / len(answers.latencies_s)
        into.request_us.setdefault(connections, []).append(spent_us)
    url = f"http://127.0.0.1:{port}{gateway.path}"
    stream = {**BODY, "stream": True, "max_tokens": TOKENS}
    # One at a time, so that nothing waits for another.
    alone = asyncio.run(run_load(url, [{**stream, "max_tokens": 2}] * 30, 1, counted, headers=gateway.headers))
    into.first_ms.append(1000 * statistics.median(each.ttft_s for each in alone.streams))
    before_s = cpu_s(process)
    load = asyncio.run(run_load(url, [stream] * STREAMS, STREAMS, counted, headers=gateway.headers))
    if load.tokens != STREAMS * TOKENS:
        raise RuntimeError(f"{gateway.name}: {load.tokens} tokens instead of {STREAMS * TOKENS}")
    into.streams.append(load)
    into.token_us.append(1e6 * (cpu_s(process) - before_s) / load.tokens)
    into.rss_bytes = max(into.rss_bytes, sum(each.memory_info().rss for each in family(process)))


def counted(event: dict[str, Any]) -> int:
    return sum(bool(choice["delta"].get("content")) for choice in event.get("choices", ()))


def table(found: dict[str, Measured]) -> Table:
    shown = Table(title=f"gateways before a canned backend, one core each ({platform.processor() or 'CPU'})")
    shown.add_column("")
    for column in (
        "req/s 1 / 16 / 64",
        "p50 / p99 ms at 16",
        "µs/request at 16",
        "µs/token",
        "added TTFT ms",
        "RSS MB",
    ):
        shown.add_column(column, justify="right")
    base_ms = statistics.median(found[DIRECT].first_ms)
    for name, each in found.items():
        rates = " / ".join(f"{statistics.median(load.per_s for load in each.whole[n]):,.0f}" for n in CONNECTIONS)
        middle = each.whole[16]
        p50, p99 = (statistics.median(load.latency_ms(p) for load in middle) for p in (50, 99))
        shown.add_row(
            name,
            rates,
            f"{p50:.2f} / {p99:.2f}",
            f"{statistics.median(each.request_us[16]):.0f}",
            f"{statistics.median(each.token_us):.1f}",
            f"{statistics.median(each.first_ms) - base_ms:+.2f}",
            f"{each.rss_bytes / 1e6:.0f}",
        )
    return shown


def figures(found: dict[str, Measured]) -> dict[str, dict[str, float]]:
    base_ms = statistics.median(found[DIRECT].first_ms)
    gateways = {name: each for name, each in found.items() if name != DIRECT}
    return {
        PER_REQUEST: {name: statistics.median(each.request_us[16]) for name, each in gateways.items()},
        PER_TOKEN: {name: statistics.median(each.token_us) for name, each in gateways.items()},
        FIRST: {name: statistics.median(each.first_ms) - base_ms for name, each in gateways.items()},
        MEMORY: {name: each.rss_bytes / 1e6 for name, each in gateways.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of whole requests, for each number of connections")
    parser.add_argument("--without", action="append", default=[], help="a gateway to leave out, by a part of its name")
    args = parser.parse_args()
    os.sched_setaffinity(0, {1})
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        backend = free_port()
        served = [sys.executable, str(ROOT / "benchmarks" / "canned_backend.py"), f"--port={backend}"]
        base = stack.enter_context(
            server("gateway-backend", served, f"http://127.0.0.1:{backend}/health", LOGS, program=on_core(1))
        )
        makers: dict[str, Callable[[int], Gateway]] = {
            "Pilotlight": lambda port: ours(port, backend, Path(work)),
            "vllm-router": lambda port: vllm_router(port, backend),
            "LiteLLM": lambda port: litellm(port, backend, Path(work)),
        }
        measure(Gateway(DIRECT, (), ""), backend, base, args.seconds, found.setdefault(DIRECT, Measured()))
        for number in range(args.rounds):
            for make in (make for name, make in makers.items() if name not in args.without):
                port = free_port()
                gateway = make(port)
                url = f"http://127.0.0.1:{port}{gateway.ready}"
                name = f"gateway-{gateway.name.split()[0]}"
                with server(name, list(gateway.argv), url, LOGS, gateway.env, on_core(0)) as process:
                    time.sleep(1.0)
                    measure(gateway, port, process, args.seconds, found.setdefault(gateway.name, Measured()))
                print(f"round {number + 1}: {gateway.name} done", flush=True)
    Console(width=140).print(table(found))
    draw(figures(found), GOALS, f"before a canned backend, one core each, median of {args.rounds}", PICTURE)
    print(f"picture: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
