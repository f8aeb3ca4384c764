"""What a swap costs, phase by phase, beside copying the same bytes; and a fork from the zygote beside a plain boot.

    python benchmarks/swap.py [--rounds 7] [--forks 5] [--compiled] [--out benchmarks/out/swap.json]

Per model: three fine-tunes of one shape are swapped in turn, so that every swap brings other weights from the page
cache; each is followed by a lease's first token over a new connection. `copy` is the same bytes from the page cache,
mapped anew each time, into memory that was touched before; `copy, warm` is between two such buffers. Each by as many
threads as a swap uses, and taken between the swaps, so that all see the same machine. Medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pilotlight_engine.client import pool_client
from pilotlight_protocol.engine_frames import GenerateRequest, HostConfig, HostExited, Shutdown
from pilotlight_protocol.generation import GenerationParameters

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from pool_agent import Host, ZygoteProcess, exec_host, private_dir

ROOT = Path(__file__).parents[1]
PROMPT = [5, 6, 7, 8] * 4
KINDS = {
    "demo AWQ": ("--from-demo", "--quantization", "awq"),
    "340 MB bf16": ("--preset", "340m"),
}
CHUNK = 4 << 20
PHASES = ("drain", "inspect", "weights", "reset", "defaults", "check")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="swaps that count, per model")
    parser.add_argument("--forks", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="graphs compiled as vLLM does by default; else eager")
    parser.add_argument("--models", type=Path, help="where the models are kept for the next run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "swap.json")
    args = parser.parse_args()
    arguments = {} if args.compiled else {"enforce_eager": "true"}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = private_dir(Path(folder) / "work")
        kinds = {name: make(name, options, args.models or Path(folder)) for name, options in KINDS.items()}
        with ZygoteProcess(work, work / "zygote.log") as zygote:
            import_s = zygote.wait_ready().import_s
            for name, models in kinds.items():
                results[name] = {"import": import_s, **measure(zygote, models, arguments, work, args)}
        for name, models in kinds.items():
            results[name]["exec"] = median(boot_by_exec(models[0], arguments, work) for _ in range(args.forks))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(results, indent=2) + "\n")
    show(results)


def make(name: str, options: tuple[str, ...], folder: Path) -> list[Path]:
    out = folder / name.replace(" ", "-")
    if not out.exists():
        argv = [sys.executable, str(ROOT / "scripts" / "make_models.py"), "--out", str(out), "--count", "3", *options]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return sorted(out.iterdir())


def measure(
    zygote: ZygoteProcess, models: list[Path], arguments: dict[str, str], work: Path, args: argparse.Namespace
) -> dict[str, float]:
    forks: list[float] = []
    for number in range(args.forks):
        began_s = time.perf_counter()
        host = zygote.fork(config(f"fork-{number}", models[number % len(models)], arguments, work))
        host.wait_booted(deadline_s=300.0)
        first_token_s(host)
        forks.append(time.perf_counter() - began_s)
        if number < args.forks - 1:
            host.send(Shutdown())
            zygote.frames.until(HostExited)
    phases: dict[str, list[float]] = {phase: [] for phase in (*PHASES, "swap", "first token", "swap to first token")}
    threads = len(os.sched_getaffinity(0))
    weights = models[0] / "model.safetensors"
    copies: dict[str, Callable[[], float]] = {
        "copy": CopyFromPageCache(weights, threads),
        "copy, warm": CopyWarm(weights.stat().st_size, threads),
    }
    floors: dict[str, list[float]] = {name: [] for name in copies}
    # The first swap stands alone, and one to each model does not count: pages are touched for the first time.
    first_weights_s = 0.0
    for number in range(args.rounds + len(models)):
        began_s = time.perf_counter()
        swapped = host.swap(models[(number + 1) % len(models)], generation=number)
        swap_s = time.perf_counter() - began_s
        token_s = first_token_s(host)
        if number == 0:
            first_weights_s = swapped.phases_s["weights"]
        if number >= len(models):
            for phase, seconds in swapped.phases_s.items():
                phases[phase].append(seconds)
            phases["swap"].append(swap_s)
            phases["first token"].append(token_s)
            phases["swap to first token"].append(time.perf_counter() - began_s)
            for name, copy in copies.items():
                floors[name].append(copy())
    host.send(Shutdown())
    zygote.frames.until(HostExited)
    return {
        "bytes": weights.stat().st_size, "fork to first token": median(forks),
        **{name: median(times) for name, times in (phases | floors).items()}, "weights, first swap": first_weights_s,
    }  # fmt: skip


def boot_by_exec(model: Path, arguments: dict[str, str], work: Path) -> float:
    began_s = time.perf_counter()
    process, host = exec_host(config("exec", model, arguments, work), work, work / "exec.log")
    host.wait_booted(deadline_s=300.0)
    first_token_s(host)
    elapsed_s = time.perf_counter() - began_s
    host.send(Shutdown())
    process.wait(30.0)
    host.sock.close()
    return elapsed_s


def config(slot: str, model: Path, arguments: dict[str, str], work: Path) -> HostConfig:
    return HostConfig(
        slot=slot, listen=f"unix://{work}/{slot}.sock", model_dir=str(model), model_name="model",
        engine_args=arguments | {"max_num_seqs": "8"},
    )  # fmt: skip


def first_token_s(host: Host) -> float:
    """A grant, a new connection and its first token."""
    began_s = time.perf_counter()
    host.grant("lease", "secret", "tenant")

    async def first() -> None:
        assert host.booted is not None
        engine = await pool_client.connect(host.booted.endpoint, "lease", "secret")
        parameters = GenerationParameters(max_tokens=1, temperature=0.0, ignore_eos=True)
        async for _ in engine.generate(GenerateRequest("bench", PROMPT, parameters)):
            pass
        await engine.close()

    asyncio.run(first())
    return time.perf_counter() - began_s


class CopyWarm:
    """Seconds to copy `size` bytes between buffers that were touched before."""

    def __init__(self, size: int, threads: int) -> None:
        self._source, self._target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        self._pool = ThreadPoolExecutor(threads)

    def __call__(self) -> float:
        began_s = time.perf_counter()
        self._copy(self._source)
        return time.perf_counter() - began_s

    def _copy(self, source: np.ndarray) -> None:
        def part(start: int) -> None:
            self._target[start : start + CHUNK] = source[start : start + CHUNK]

        list(self._pool.map(part, range(0, source.size, CHUNK)))


class CopyFromPageCache(CopyWarm):
    """Seconds to map `file`, which was read before, and to copy it into a buffer that was touched before."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__(file.stat().st_size, threads)
        self._file = file

    def __call__(self) -> float:
        began_s = time.perf_counter()
        self._copy(np.memmap(self._file, np.uint8, mode="r"))
        return time.perf_counter() - began_s


def median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def show(results: dict[str, dict[str, float]]) -> None:
    print(f"{'ms':28}" + "".join(f"{name:>16}" for name in results))
    rows = [key for key in next(iter(results.values())) if key not in ("bytes", "import")]
    for row in (*rows, "import"):
        print(f"{row:28}" + "".join(f"{result[row] * 1000:16.1f}" for result in results.values()))
    for floor in ("copy", "copy, warm"):
        shares = (f"{result[floor] / result['weights']:16.0%}" for result in results.values())
        print(f"{floor + ' over weights':28}" + "".join(shares))


if __name__ == "__main__":
    main()
