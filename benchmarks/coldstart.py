"""How long until the first token, by every way there is: vLLM's own server, and this platform's ways to a warm engine.

    python benchmarks/coldstart.py [--model demo|340m|smollm2] [--rounds 3] [--paths a b c d e f g h] [--publish]

    a  vLLM's own OpenAI server, from exec           d  a lease, by swapping another model's weights out
    b  our predictor with its own engine, from exec  e  a lease on an engine parked with the model
    c  a lease, by forking an engine                 f  a chat request to an endpoint at zero, to its first text
    g  as f, by the gateway's short way: swapped     h  as g, the engine parked with the model

One machine, one run, rounds interleaved; ratios are taken round by round. Beside it the floor: copying as many bytes as
the weights have. `demo` is the AWQ demo model, eager. `340m` is bf16 with compiled graphs: every path is measured with
a warm compile cache, (a) with vLLM's own, and what filling them took (a, b and c once each, from empty) stands beside.
`smollm2` is the real model and a fine-tune of it, bf16, eager (`make real-model`).
Prints a table, writes JSON and a picture under benchmarks/out. 340m with three rounds takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from coldstart_paths import (
    LeasePool,
    Platform,
    Sample,
    Setting,
    memory_copy_s,
    standalone_predictor,
    vllm_server,
)
from coldstart_picture import draw
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
REAL = ROOT / ".real-model"
PATHS = {
    "a": "vLLM's own server",
    "b": "standalone predictor",
    "c": "lease, fork",
    "d": "lease, swap",
    "e": "lease, parked engine",
    "f": "endpoint at zero, to text",
    "g": "short way, swapped, to text",
    "h": "short way, parked, to text",
}
# Ways as quick as these are measured several times a round.
SHOTS = {"d": 5, "e": 5, "g": 4, "h": 4}
SHORT_GOALS_S = {("demo", "g"): 0.06, ("demo", "h"): 0.03, ("smollm2", "g"): 0.25, ("smollm2", "h"): 0.085}
SWAP_GOAL, FORK_GOAL, WHOLE_GOAL_S, BANDWIDTH_GOAL = 100.0, 5.0, 1.5, 0.5
console = Console(width=130)
Samples = dict[str, list[list[Sample]]]


def setting_for(model: str, work: Path) -> Setting:
    engine_args = {"max_model_len": "1024", "max_num_seqs": "16"}
    if model == "smollm2":
        return Setting(
            (REAL / "smollm2-135m", REAL / "smollm2-135m-tools"), {**engine_args, "enforce_eager": "true"}, work
        )
    if model == "demo":
        return Setting((_bundled(), _made(model, 1)), {**engine_args, "enforce_eager": "true"}, work)
    return Setting((_made(model, 0), _made(model, 1)), engine_args, work)


def _bundled() -> Path:
    return ROOT / "models" / "pilotlight_models" / "demo-awq"


def _made(model: str, number: int) -> Path:
    kind = ["--from-demo", "--quantization", "awq"] if model == "demo" else ["--preset", model]
    out = OUT / "models" / model
    folder = out / (f"tenant-{number:02d}" if model == "demo" else f"model-{number:02d}")
    if not (folder / "tokenizer.json").exists():
        console.print(f"making {folder.name} …")
        script = [sys.executable, str(ROOT / "scripts" / "make_models.py"), "--out", str(out), "--count", "1"]
        subprocess.run([*script, *kind, "--seed", str(number)], check=True, stdout=subprocess.DEVNULL)
    return folder


class Measurements:
    """Starts what the chosen paths need and takes one round of a path at a time."""

    def __init__(self, setting: Setting, paths: Sequence[str], stack: ExitStack) -> None:
        self._setting = setting
        self._stack = stack
        self._loaded = self._at_zero = 0
        # The first boot of each path that boots, in seconds: it compiles, and leaves a warm cache behind.
        self.cold_s: dict[str, float] = {}
        self._rounds: dict[str, Callable[[], Sample]] = {
            "a": lambda: vllm_server(setting),
            "b": lambda: standalone_predictor(setting),
            "c": self._fork,
            "d": self._swap,
            "e": self._parked,
            "f": self._whole_path,
            "g": self._short_swapped,
            "h": self._short_parked,
        }
        for path, boot in (("a", vllm_server), ("b", standalone_predictor)):
            if path in paths and setting.compiles:
                console.print(f"{path}: filling the compile cache …")
                self.cold_s[path] = boot(setting).total_s
        if "c" in paths:
            console.print("starting a warm pool that keeps no idle engine …")
            self._empty = stack.enter_context(LeasePool.running(setting, "empty", "--keep_alive_price_s", "0"))
            first = self._empty.first_token(0, "fork")
            if setting.compiles:
                self.cold_s["c"] = first.total_s
        if "d" in paths or "e" in paths:
            console.print("starting a warm pool …")
            self._warm = stack.enter_context(LeasePool.running(setting, "warm"))
            self._warm.first_token(0, "fork")
        if {"f", "g", "h"} & set(paths):
            console.print("starting pilotlight up …")
            self._platform = stack.enter_context(Platform.running(setting))

    def round(self, path: str) -> list[Sample]:
        return [self._rounds[path]() for _ in range(SHOTS.get(path, 1))]

    def _fork(self) -> Sample:
        self._empty.until_slot_is("empty")
        return self._empty.first_token(0, "fork")

    def _swap(self) -> Sample:
        self._keep_warm()
        self._loaded = 1 - self._loaded
        return self._warm.first_token(self._loaded, "swap")

    def _parked(self) -> Sample:
        self._keep_warm()
        return self._warm.first_token(self._loaded, "loaded")

    def _keep_warm(self) -> None:
        """The engine is parked, with the model that was last asked for: keep-alive may have ended it meanwhile."""
        if self._warm.slot_state() == "empty":
            self._warm.first_token(self._loaded, "fork")
        self._warm.until_slot_is("idle")

    def _whole_path(self) -> Sample:
        self._platform.until_at_zero(with_engine_of=self._at_zero)
        self._at_zero = 1 - self._at_zero
        return self._platform.first_text(self._at_zero)

    def _short_swapped(self) -> Sample:
        self._platform.until_at_zero(with_engine_of=self._at_zero)
        self._at_zero = 1 - self._at_zero
        return self._platform.first_text_of_gateway(self._at_zero)

    def _short_parked(self) -> Sample:
        self._platform.until_at_zero(with_engine_of=self._at_zero)
        return self._platform.first_text_of_gateway(self._at_zero)


def median(samples: Sequence[Sequence[Sample]]) -> float:
    return statistics.median(sample.total_s for row in samples for sample in row)


def ratios(samples: Samples, path: str) -> list[float]:
    """vLLM's own server over `path`, round by round."""
    pairs = zip(samples.get("a", []), samples[path], strict=False)
    return [median([first]) / median([second]) for first, second in pairs]


def median_phases(samples: Sequence[Sequence[Sample]]) -> dict[str, float]:
    every = [sample for row in samples for sample in row]
    names = list(dict.fromkeys(name for sample in every for name in sample.phases_s))
    return {name: statistics.median(sample.phases_s.get(name, 0.0) for sample in every) for name in names}


def judge(path: str, samples: Samples, model: str) -> tuple[str, str]:
    """The goal of a path and whether it is met, both to be read."""
    if (model, path) in SHORT_GOALS_S:
        goal_s = SHORT_GOALS_S[model, path]
        return f"≤ {goal_s:g} s", "met" if median(samples[path]) <= goal_s else "missed"
    if path == "f":
        return f"≤ {WHOLE_GOAL_S:g} s", "met" if median(samples["f"]) <= WHOLE_GOAL_S else "missed"
    wanted = {"c": FORK_GOAL, "d": SWAP_GOAL}.get(path)
    found = ratios(samples, path) if wanted else []
    if wanted is None or not found:
        return (f"≥ {wanted:g} ×" if wanted else ""), ""
    return f"≥ {wanted:g} ×", "met" if statistics.median(found) >= wanted else "missed"


def table(samples: Samples, title: str, model: str) -> Table:
    shown = Table(title=title)
    for column in ("", "path", "median", "each round", "× faster than a", "goal", ""):
        shown.add_column(column, justify="right" if column in ("median", "each round", "× faster than a") else "left")
    for path, rows in samples.items():
        found = ratios(samples, path)
        faster = f"{statistics.median(found):.1f} ({min(found):.1f}–{max(found):.1f})" if found and path != "a" else ""
        each = " ".join(_time(median([row])) for row in rows)
        shown.add_row(path, PATHS[path], _time(median(rows)), each, faster, *judge(path, samples, model))
    return shown


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def cache_lines(samples: Samples, cold_s: Mapping[str, float]) -> list[str]:
    """What the compile caches are worth, to be read; nothing for an eager model."""
    if not cold_s:
        return []
    told = ", ".join(f"({path}) {_time(seconds)}" for path, seconds in cold_s.items())
    lines = [f"compile caches were warm; from empty ones, once each: {told}"]
    if "a" in cold_s and "c" in samples:
        lines.append(f"(c) with a warm cache against (a) with an empty one: {cold_s['a'] / median(samples['c']):.1f} ×")
    return lines


def floor_lines(samples: Samples, setting: Setting, copies_s: Sequence[float]) -> tuple[list[str], dict[str, float]]:
    size = setting.weights_bytes
    copy_s = statistics.median(copies_s)
    figures = {"weights_bytes": size, "copy_s": copy_s}
    lines = [f"floor: copying {size / 1e6:.1f} MB in memory takes {_time(copy_s)}, {size / copy_s / 1e9:.1f} GB/s"]
    if "d" in samples:
        weights_s = median_phases(samples["d"]).get("weights", 0.0)
        share = copy_s / weights_s if weights_s else 0.0
        figures |= {"weights_s": weights_s, "share_of_copy_bandwidth": share}
        verdict = "met" if share >= BANDWIDTH_GOAL else "missed"
        lines.append(
            f"the swap's weights phase: {_time(weights_s)}, {100 * share:.0f} % of the copy's bandwidth "
            f"(goal ≥ {100 * BANDWIDTH_GOAL:.0f} %: {verdict})"
        )
    return lines, figures


def write(
    samples: Samples,
    figures: Mapping[str, float],
    cold_s: Mapping[str, float],
    args: argparse.Namespace,
    title: str,
) -> None:
    raw = {
        "title": title,
        "floor": figures,
        "empty_compile_cache_s": cold_s,
        "paths": {
            path: {
                "name": PATHS[path],
                "median_s": median(rows),
                "times_faster_than_vllm": ratios(samples, path),
                "phases_s": median_phases(rows),
                "rounds": [[{"total_s": s.total_s, "phases_s": s.phases_s} for s in row] for row in rows],
            }
            for path, rows in samples.items()
        },
    }
    (OUT / f"coldstart-{args.model}.json").write_text(json.dumps(raw, indent=1))
    picture = OUT / f"coldstart-{args.model}.png"
    named = {f"({path}) {PATHS[path]}: {_time(median(rows))}": median_phases(rows) for path, rows in samples.items()}
    draw(named, title, picture)
    console.print(f"picture: benchmarks/out/{picture.name}")
    if args.publish:
        shutil.copyfile(picture, ROOT / "docs" / "pictures" / picture.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["demo", "340m", "smollm2"], default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paths", nargs="+", choices=sorted(PATHS), default=sorted(PATHS))
    parser.add_argument("--publish", action="store_true", help="copy the picture to docs/pictures")
    args = parser.parse_args()
    # So that the servers end with it, also when it is stopped from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUT.mkdir(parents=True, exist_ok=True)
    samples: Samples = {path: [] for path in args.paths}
    copies_s: list[float] = []
    with ExitStack() as stack:
        # Short, because a socket's path is.
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pl-cold-", ignore_cleanup_errors=True)))
        setting = setting_for(args.model, work)
        setting.engines.mkdir(mode=0o700)
        measurements = Measurements(setting, args.paths, stack)
        for number in range(args.rounds):
            copies_s.append(memory_copy_s(setting.weights_bytes))
            for path in args.paths if number % 2 == 0 else reversed(args.paths):
                row = measurements.round(path)
                samples[path].append(row)
                console.print(f"round {number + 1}, {path} {PATHS[path]}: {_time(median([row]))}")
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    graphs = "compiled, warm caches" if setting.compiles else "eager"
    title = f"first token, {args.model} ({setting.weights_bytes / 1e6:.0f} MB of weights, {graphs}), {machine}"
    console.print(table(samples, title, args.model))
    lines, figures = floor_lines(samples, setting, copies_s)
    for line in [*cache_lines(samples, measurements.cold_s), *lines]:
        console.print(line, highlight=False)
    write(samples, figures, measurements.cold_s, args, title)


if __name__ == "__main__":
    main()
