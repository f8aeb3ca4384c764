"""What a tenant's leases wait for alone, and beside a tenant that floods the pool: live service, real engines.

    python benchmarks/fairness.py [--rounds 3] [--phase_s 12]

One service with two slots. `quiet` asks for short interactive leases at random times; `flood` always wants three times
as many leases as there are slots, on models of its own. A round is four phases: quiet alone, then beside a flood of
batch, of normal and of interactive leases. Every lease generates its tokens on the leased engine; one that loses its
engine asks for another and goes on, as a predictor does. Prints a table and writes it with a picture to benchmarks/out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

import aiohttp
from processes import free_port
from rich.console import Console
from rich.table import Table
from warmup_pool import Holder

from churn_harness.models import ENGINE_ARGS
from churn_harness.pool import ChurnPool
from pilotlight_protocol import engine_frames as f

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "out"
SLOTS = 2
QUIET_MODELS, FLOOD_MODELS = 4, 6
SCENARIOS = ("alone", "batch", "normal", "interactive")
LOOK_EVERY_S = 0.1
MOST_WARM_UPS = 10
console = Console(width=130)


@dataclass
class Phase:
    """`waits_s` of quiet, from asking to an engine, and what the pool says of each in `phases_s`. `leased`, `busy`,
    `wasted`: of the looks at the slots, how many saw one at work, one at work or on its way, and a free one while a
    lease waited.
    """

    waits_s: list[float] = field(default_factory=list)
    phases_s: list[dict[str, float]] = field(default_factory=list)
    paths: dict[str, int] = field(default_factory=dict)
    flood_leases: int = 0
    resumed: dict[str, int] = field(default_factory=lambda: {"quiet": 0, "flood": 0})
    looks: int = 0
    leased: int = 0
    busy: int = 0
    wasted: int = 0


class Tenants:
    def __init__(self, url: str, session: aiohttp.ClientSession, models: list[Path], seed: int) -> None:
        self._url = url
        self._session = session
        self._quiet, self._flood = models[:QUIET_MODELS], models[QUIET_MODELS:]
        self._dice = random.Random(seed)
        self._prompt = [self._dice.randrange(300, 2000) for _ in range(32)]

    async def phase(self, scenario: str, args: argparse.Namespace) -> Phase:
        phase, ending = Phase(), asyncio.Event()
        floods = [] if scenario == "alone" else range(3 * SLOTS)
        async with asyncio.TaskGroup() as tasks:
            for _ in floods:
                tasks.create_task(self._flooding(phase, scenario, args.flood_tokens, ending))
            watch = tasks.create_task(self._watch(phase))
            # The queue is full before the first lease of quiet comes, and stays so until its last is served.
            await asyncio.sleep(1.0)
            asked: list[asyncio.Task[None]] = []
            end_s = time.monotonic() + args.phase_s
            while time.monotonic() < end_s:
                model = self._dice.choice(self._quiet)
                asked.append(tasks.create_task(self._one_of_quiet(phase, model, args.quiet_tokens)))
                await asyncio.sleep(self._dice.expovariate(1 / args.quiet_every_s))
            await asyncio.gather(*asked)
            watch.cancel()
            ending.set()
        return phase

    async def warm_up(self) -> None:
        """Boots an engine in every slot and learns what a swap takes."""
        phase, models = Phase(), [*self._quiet, *self._flood]
        for _ in range(MOST_WARM_UPS):
            await asyncio.gather(*(self._one_of_quiet(phase, model, 100) for model in models[:SLOTS]))
            async with self._session.get(f"{self._url}/v1/slots") as answer:
                if all(slot["model"] for slot in (await answer.json())["slots"]):
                    break
        else:
            raise RuntimeError("a slot stays empty")
        for model in models:
            await self._one_of_quiet(phase, model, 4)

    async def _one_of_quiet(self, phase: Phase, model: Path, tokens: int) -> None:
        await self._work(phase, "quiet", model, "interactive", tokens)

    async def _flooding(self, phase: Phase, priority: str, tokens: int, ending: asyncio.Event) -> None:
        while not ending.is_set():
            await self._work(phase, "flood", self._dice.choice(self._flood), priority, tokens)
            phase.flood_leases += 1

    async def _work(self, phase: Phase, tenant: str, model: Path, priority: str, tokens: int) -> None:
        done = 0
        first = True
        while done < tokens:
            began_s = time.monotonic()
            lease = await self._lease(tenant, model, priority)
            if tenant == "quiet":
                phase.waits_s.append(time.monotonic() - began_s)
                phase.phases_s.append({name: took_s for name, took_s in lease["phases_s"].items() if "." not in name})
                phase.paths[lease["path"]] = phase.paths.get(lease["path"], 0) + 1
            phase.resumed[tenant] += not first
            first = False
            done += await self._generate(lease, tokens - done)
            async with self._session.delete(f"{self._url}/v1/leases/{lease['lease_id']}"):
                pass

    async def _lease(self, tenant: str, model: Path, priority: str) -> dict[str, Any]:
        body = {
            "model": str(model), "model_name": model.name, "tenant": tenant, "priority": priority,
            "wait_s": 60, "deadline_s": 120, "engine_args": ENGINE_ARGS,
        }  # fmt: skip
        while True:
            async with self._session.post(f"{self._url}/v1/leases", json=body) as answer:
                lease = await answer.json()
            if lease.get("state") in {"active", "idle"}:
                return dict(lease)
            if answer.status < 500:
                raise RuntimeError(f"{tenant} asked for a lease: {answer.status} {lease}")

    async def _generate(self, lease: dict[str, Any], tokens: int) -> int:
        """How many tokens came before the end, or before the engine was taken away."""
        came = 0
        with contextlib.suppress(EOFError, OSError):
            async with Holder.open(lease) as holder:
                await holder.frame()
                holder.ask(tokens, self._prompt)
                while came < tokens:
                    frame = await holder.frame()
                    if isinstance(frame, f.Failed | f.Refused):
                        break
                    if isinstance(frame, f.Step):
                        came += sum(len(delta.token_ids) for _, delta in frame.deltas)
        return came

    async def _watch(self, phase: Phase) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            async with self._session.get(f"{self._url}/v1/slots") as answer:
                slots = (await answer.json())["slots"]
            async with self._session.get(f"{self._url}/v1/leases") as answer:
                waiting = sum(lease["state"] == "queued" for lease in (await answer.json())["leases"])
            at_rest = sum(slot["state"] in {"idle", "empty"} and slot["lease_id"] is None for slot in slots)
            phase.looks += SLOTS
            phase.leased += sum(slot["state"] == "leased" for slot in slots)
            phase.busy += SLOTS - at_rest
            phase.wasted += min(at_rest, waiting)


def make_models(folder: Path) -> list[Path]:
    """Random weights in the demo model's architecture, AWQ: fine-tunes of one another as far as a slot can see."""
    script = [sys.executable, str(ROOT / "scripts" / "make_models.py"), "--out", str(folder), "--quantization", "awq"]
    subprocess.run([*script, "--count", str(QUIET_MODELS + FLOOD_MODELS)], check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.iterdir())


async def run(args: argparse.Namespace, folder: Path) -> dict[str, list[Phase]]:
    models = make_models(folder / "models")
    pool = ChurnPool(folder / "pool", free_port(), SLOTS)
    await pool.start()
    found: dict[str, list[Phase]] = {scenario: [] for scenario in SCENARIOS}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            tenants = Tenants(pool.url, session, models, args.seed)
            await tenants.warm_up()
            for turn in range(args.rounds):
                for scenario in SCENARIOS:
                    phase = await tenants.phase(scenario, args)
                    found[scenario].append(phase)
                    console.print(f"round {turn + 1}, {scenario}: {len(phase.waits_s)} leases, p95 {p95(phase):.3f} s")
            async with session.get(f"{pool.url}/metrics") as answer:
                (OUT / "fairness-metrics.txt").write_text(await answer.text())
    finally:
        left = await pool.stop()
    if left:
        raise SystemExit(f"the pool left processes behind: {left}")
    return found


def percentile(values: Iterable[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def p95(*phases: Phase) -> float:
    return percentile([wait_s for phase in phases for wait_s in phase.waits_s], 0.95)


def share(phases: list[Phase], seen: str) -> float:
    return float(sum(getattr(phase, seen) for phase in phases) / sum(phase.looks for phase in phases))


def table(found: dict[str, list[Phase]]) -> Table:
    shown = Table(title=f"lease waits of the quiet tenant, {SLOTS} slots, {time.strftime('%Y-%m-%d')}")
    for name in ("beside", "leases", "p50 s", "p95 s", "p95, x alone", "round by round", "swaps", "slots leased"):
        shown.add_column(name, justify="right")
    for name in ("slots taken", "free beside a waiting lease", "flood's leases", "resumed"):
        shown.add_column(name, justify="right")
    alone = found["alone"]
    for scenario, phases in found.items():
        waits_s = [wait_s for phase in phases for wait_s in phase.waits_s]
        ratios = [p95(phase) / p95(beside) for phase, beside in zip(phases, alone, strict=True)]
        swaps = sum(phase.paths.get("swap", 0) for phase in phases) / len(waits_s)
        shown.add_row(
            scenario, str(len(waits_s)), f"{statistics.median(waits_s):.3f}", f"{p95(*phases):.3f}",
            f"{p95(*phases) / p95(*alone):.2f}", f"{statistics.median(ratios):.2f}", f"{swaps:.0%}",
            f"{share(phases, 'leased'):.0%}", f"{share(phases, 'busy'):.0%}", f"{share(phases, 'wasted'):.1%}",
            str(sum(phase.flood_leases for phase in phases)), str(sum(sum(p.resumed.values()) for p in phases)),
        )  # fmt: skip
    return shown


def draw(found: dict[str, list[Phase]], target: Path) -> None:
    """The distribution of the quiet tenant's waits in each scenario, with twice its own p95 alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for scenario, phases in found.items():
        waits_s = sorted(wait_s for phase in phases for wait_s in phase.waits_s)
        parts = [(place + 1) / len(waits_s) for place in range(len(waits_s))]
        axes.step(
            waits_s,
            parts,
            where="post",
            label=scenario if scenario == "alone" else f"beside a flood of {scenario} leases",
        )
    axes.axhline(0.95, color="#999999", linewidth=0.6)
    axes.axvline(2 * p95(*found["alone"]), color="#999999", linewidth=0.8, linestyle="--", label="2 x p95 alone")
    axes.set_xlabel("lease wait, s")
    axes.set_ylabel("share of leases")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.01)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phase_s", type=float, default=12.0)
    parser.add_argument("--quiet_every_s", type=float, default=0.3, help="mean time between the quiet tenant's leases")
    parser.add_argument("--quiet_tokens", type=int, default=24)
    parser.add_argument("--flood_tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    # So that the service ends with it, also when it is stopped from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-fairness-") as work:
        found = asyncio.run(run(args, Path(work)))
    console.print(table(found))
    figures = {scenario: [vars(phase) for phase in phases] for scenario, phases in found.items()}
    (OUT / "fairness.json").write_text(json.dumps({"plan": vars(args), "phases": figures}, indent=1))
    draw(found, OUT / "fairness.png")


if __name__ == "__main__":
    main()
