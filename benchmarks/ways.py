"""What a streamed token costs on each way: gateway and engine, or transformer, predictor and the same engine.

    python benchmarks/ways.py [--rounds 3] [--streams 16] [--tokens 100]

One `pilotlight up`, two fine-tunes of the demo model on one slot: one is asked through the gateway by the short way,
the other at the ingress by its pods. CPU is counted by process, of the engine only what it spends while that way is
under load. Whose turn it is alternates; the first requests of a turn, which swap, are not counted. Prints a table,
draws a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
from coldstart import OUT, setting_for
from coldstart_paths import Platform
from gateway_picture import draw
from processes import cpu_by_process
from rich.console import Console
from rich.table import Table
from side_by_side import usage_tokens
from stream_load import LoadResult, run_load

PICTURE = OUT / "ways.png"
SHORT, PODS = "short way: gateway + engine", "pods: transformer + predictor + engine"
PARTS = {SHORT: ("gateway", "engine"), PODS: ("transformer", "predictor", "engine")}
ROLES = {f"pilotlight_{name}": name for name in ("gateway", "transformer", "predictor", "engine")}
ROLES |= {"pilotlight_text": "gateway", "pilotlight_pool": "pool"}

Figures = dict[str, dict[str, list[float]]]


def load(url: str, model: str, streams: int, tokens: int, rounds: int) -> LoadResult:
    messages = [{"role": "user", "content": "Tell me of yourself, and of what you can do."}]
    body: dict[str, object] = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    return asyncio.run(run_load(f"{url}/chat/completions", [body] * streams * rounds, streams, usage_tokens))


def measure(up: Platform, way: str, args: argparse.Namespace, into: Figures) -> None:
    number = list(PARTS).index(way)
    url = up.gateway_url if way == SHORT else up.ingress_url(number)
    model = f"cold-{number}"
    load(url, model, args.streams, 8, 1)
    before = cpu_by_process(up.process, ROLES, "ingress")
    loaded = load(url, model, args.streams, args.tokens, 3)
    spent = dict.fromkeys(PARTS[way], 0.0)
    for (role, pid), seconds in cpu_by_process(up.process, ROLES, "ingress").items():
        if role in spent:
            spent[role] += seconds - before.get((role, pid), 0.0)
    told = into.setdefault(way, {})
    for part, seconds in spent.items():
        told.setdefault(part, []).append(1e6 * seconds / loaded.tokens)
    told.setdefault("tokens/s", []).append(loaded.tokens_per_s)


def table(found: Figures, title: str) -> Table:
    shown = Table(title=title)
    for column in ("", "µs of CPU per token, by process", "together", "without the engine", "tokens/s"):
        shown.add_column(column, justify="left" if column in ("", "µs of CPU per token, by process") else "right")
    for way, told in found.items():
        parts = {part: statistics.median(told[part]) for part in PARTS[way]}
        said = ", ".join(f"{part} {cost:.0f}" for part, cost in parts.items())
        rate = statistics.median(told["tokens/s"])
        rest = sum(parts.values()) - parts["engine"]
        shown.add_row(way, said, f"{sum(parts.values()):.0f}", f"{rest:.0f}", f"{rate:.0f}")
    return shown


def by_way(found: Figures, cost: Callable[[dict[str, list[float]], str], float]) -> dict[str, float]:
    return {way: cost(told, way) for way, told in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUT.mkdir(parents=True, exist_ok=True)
    found: Figures = {}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pl-ways-")))
        setting = setting_for("demo", work)
        setting.engines.mkdir(mode=0o700)
        up = stack.enter_context(Platform.running(setting, ("shared", "pods")))
        for number in range(args.rounds):
            for way in PARTS if number % 2 == 0 else reversed(PARTS):
                measure(up, way, args, found)
                print(f"round {number + 1}: {way}, {found[way]['tokens/s'][-1]:.0f} tokens/s", flush=True)
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    title = f"{args.streams} streams of {args.tokens} tokens, demo model, {machine}"
    Console(width=130).print(table(found, title))

    def around(told: dict[str, list[float]], way: str) -> float:
        return sum(statistics.median(told[part]) for part in PARTS[way] if part != "engine")

    panels = {
        "CPU µs per token around the engine": by_way(found, around),
        "CPU µs per token, the engine's": by_way(found, lambda told, _: statistics.median(told["engine"])),
        "tokens/s": by_way(found, lambda told, _: statistics.median(told["tokens/s"])),
    }
    draw(panels, {}, title, PICTURE)
    print(f"picture: {PICTURE.relative_to(OUT.parents[1])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
