"""LoRA adapters: what a lease of the next one takes beside a swap and a fork, and how fast several run at once.

    python benchmarks/adapters.py [--rounds 3] [--levels 1 4 8]

Needs `make real-model`. SmolLM2-135M, eager, and eight copies of its trained adapter, each an endpoint of its own. The
leases are of a pool with one slot; a swap exchanges two fine-tunes of the same base. Then eight streams at once, over
1, 4 and 8 of the adapters: predictors on that pool beside vLLM's own server with --enable-lora and the same adapters;
tokens in, one under load at a time, rounds interleaved. Medians; raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from processes import free_port, server
from rich.console import Console
from rich.table import Table
from stream_load import LoadResult, run_load

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from warmup_pool import Pool, generate

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
MODELS = ROOT / ".real-model"
BASE = MODELS / "smollm2-135m"
FINE_TUNES = (MODELS / "smollm2-135m-tools", MODELS / "smollm2-135m-records")
TRAINED = ROOT / "models" / "adapters" / "smollm2-tools"
ADAPTERS, STREAMS, PROMPT_TOKENS = 8, 8, 32
ARGUMENTS = {"max_model_len": "1024", "enforce_eager": "true", "max_num_seqs": "64", "enable_prefix_caching": "false"}
VLLM, OURS = "vLLM's server", "predictors"

Figures = dict[str, list[float]]


async def lease_times(pool: Pool, adapters: Sequence[Path]) -> Figures:
    """Seconds from the request for a lease to its first token, by what had to be done for it."""
    found: Figures = {}

    async def take(name: str, model: Path, adapter: Path | None = None) -> None:
        began_s = time.perf_counter()
        more = {"adapter": str(adapter)} if adapter is not None else {}
        lease = await pool.lease(
            model, engine_args=ARGUMENTS, wait_s=120.0, deadline_s=240.0, name=(adapter or model).name, **more
        )
        await generate(lease, 1, [5, 6, 7, 8] * 8)
        found.setdefault(name, []).append(time.perf_counter() - began_s)
        await pool.release(lease)

    await take("fork", BASE)
    for number in range(4):
        await take("first swap" if number == 0 else "swap", FINE_TUNES[number % 2])
    await take("fork for adapters, and the first of them", BASE, adapters[0])
    for adapter in adapters[1:]:
        await take("the next adapter on that engine", BASE, adapter)
    for adapter in adapters:
        await take("an adapter that is loaded", BASE, adapter)
    return found


def one_after_the_other(pool: Pool, adapters: Sequence[Path], stack: ExitStack, logs: Path) -> dict[str, str]:
    """A predictor per adapter on the pool: their URLs by name."""
    urls = {}
    for adapter in adapters:
        port = free_port()
        argv = ["-m", "pilotlight_predictor", f"--model_name={adapter.name}", f"--model_uri={BASE}"]
        argv += [f"--adapter={adapter}", f"--http_port={port}", f"--pool_url={pool.url}", "--lease_idle_s=600"]
        argv += [f"--engine_arg={name}={value}" for name, value in ARGUMENTS.items()]
        stack.enter_context(server(adapter.name, argv, f"http://127.0.0.1:{port}/v2/health/ready", logs))
        urls[adapter.name] = f"http://127.0.0.1:{port}/v2/models/{adapter.name}/generate_stream"
    return urls


def vllm_server(adapters: Sequence[Path], stack: ExitStack, logs: Path) -> str:
    port = free_port()
    argv = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE), "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--disable-uvicorn-access-log", "--max-model-len", ARGUMENTS["max_model_len"]]
    argv += ["--enforce-eager", "--max-num-seqs", ARGUMENTS["max_num_seqs"], "--no-enable-prefix-caching"]
    argv += ["--enable-lora", "--max-loras", str(ADAPTERS), "--max-lora-rank", "16", "--lora-modules"]
    argv += [f"{adapter.name}={adapter}" for adapter in adapters]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    stack.enter_context(server("vllm-lora", argv, f"http://127.0.0.1:{port}/health", logs, env))
    return f"http://127.0.0.1:{port}/v1/completions"


def vllm_tokens(event: dict[str, Any]) -> int:
    usage = event.get("usage")
    return int(usage["completion_tokens"]) if usage and not event.get("choices") else 0


def our_tokens(event: dict[str, Any]) -> int:
    return len(event.get("output_ids") or ())


def vllm_body(name: str, prompt: list[int], tokens: int) -> dict[str, object]:
    body = {"model": name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def our_body(name: str, prompt: list[int], tokens: int) -> dict[str, object]:
    return {"input_ids": prompt, "parameters": {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}}


async def under_load(
    urls: dict[str, str],
    body: Callable[[str, list[int], int], dict[str, object]],
    count: Callable[[dict[str, Any]], int],
    level: int,
    tokens: int,
    dice: random.Random,
) -> float:
    """Tokens per second of `STREAMS` streams over the first `level` adapters."""
    names = list(urls)[:level]
    each = STREAMS // level
    bodies = {name: [body(name, prompt(dice), tokens) for _ in range(each)] for name in names}
    began_s = time.perf_counter()
    loads: list[LoadResult] = await asyncio.gather(*(run_load(urls[name], bodies[name], each, count) for name in names))
    made = sum(load.tokens for load in loads)
    if made != STREAMS * tokens:
        raise RuntimeError(f"{made} tokens were made, not {STREAMS * tokens}")
    return made / (time.perf_counter() - began_s)


def prompt(dice: random.Random) -> list[int]:
    return [dice.randrange(100, 40_000) for _ in range(PROMPT_TOKENS)]


async def measured(args: argparse.Namespace, folder: Path) -> tuple[Figures, Figures]:
    adapters = [folder / f"adapter-{number}" for number in range(ADAPTERS)]
    for adapter in adapters:
        shutil.copytree(TRAINED, adapter)
    rates: Figures = {}
    pool = Pool(folder, "-m", "pilotlight_pool", "--slot", "cpu:0=8GiB", "--store", str(folder / "store"))
    with ExitStack() as stack:
        async with pool:
            await pool.until(lambda: "is ready" in pool.log(), 300.0)
            times = await lease_times(pool, adapters)
            show_leases(times)
            ours = await asyncio.to_thread(one_after_the_other, pool, adapters, stack, OUT / "logs")
            theirs = await asyncio.to_thread(vllm_server, adapters, stack, OUT / "logs")
            vllm = dict.fromkeys(ours, theirs)
            for number in range(-1, args.rounds):
                systems = [(VLLM, vllm, vllm_body, vllm_tokens), (OURS, ours, our_body, our_tokens)]
                for level in args.levels if number >= 0 else [ADAPTERS]:
                    for name, urls, body, count in systems if number % 2 else reversed(systems):
                        seed = random.Random(f"{number} {level}")
                        rate = await under_load(urls, body, count, level, args.output_tokens, seed)
                        print(f"round {number + 1}, {level} adapters, {name}: {rate:.1f} tokens/s", flush=True)
                        if number >= 0:  # the round before the first only warms both up
                            rates.setdefault(f"{name}, {level}", []).append(rate)
            stack.close()
    return times, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 4, 8], choices=[1, 2, 4, 8])
    parser.add_argument("--output_tokens", type=int, default=24)
    args = parser.parse_args()
    if not BASE.exists():
        raise SystemExit(f"there is no {BASE.relative_to(ROOT)}: run `make real-model` first")
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        times, rates = asyncio.run(measured(args, Path(folder)))
    (OUT / "adapters.json").write_text(json.dumps({"leases_s": times, "tokens_per_s": rates}, indent=1))
    show_rates(rates, args.levels)


def show_leases(times: Figures) -> None:
    leases = Table(title="from the request for a lease to its first token")
    for column in ("", "median", "samples"):
        leases.add_column(column, justify="left" if not column else "right")
    for name, seconds in times.items():
        leases.add_row(name, f"{1000 * statistics.median(seconds):.0f} ms", str(len(seconds)))
    Console().print(leases)


def show_rates(rates: Figures, levels: Sequence[int]) -> None:
    shown = Table(title=f"tokens/s of {STREAMS} streams")
    for column in ("adapters at once", VLLM, OURS, "ratio"):
        shown.add_column(column, justify="right")
    for level in levels:
        theirs, ours = (statistics.median(rates[f"{name}, {level}"]) for name in (VLLM, OURS))
        shown.add_row(str(level), f"{theirs:.0f}", f"{ours:.0f}", f"{ours / theirs:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
