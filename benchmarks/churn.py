"""Correctness under churn: 50 models on 2 slots, random arrivals, and every 20 s a kill -9 of a random engine, of the
service, of the zygote or of a predictor.

    python benchmarks/churn.py [--minutes 10]

The oracle comes first: what plain torch says each float32 model answers, and what an engine answers that was booted for
that model alone (AWQ models: the engine only; float32 models: both must agree, for --booted of them). Then the traffic.
Passes when every completed answer is its model's own, nothing hangs, no lease and no process is left, and every failure
is a clean error. Prints what happened, writes it to benchmarks/out/churn.json, exits 1 when it did not pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from churn_driver import Churn, ChurnPlan, Tally, percentile
from churn_models import Endpoint, make_endpoints, with_answers
from churn_oracle import booted_answers
from churn_pool import ChurnPool, ThinPredictor
from processes import free_port
from rich.console import Console
from rich.table import Table

OUT = Path(__file__).parent / "out"
console = Console(width=130)


async def oracle(folder: Path, endpoints: list[Endpoint], booted: int, slots: int) -> list[Endpoint]:
    """The endpoints with all answers known. Raises SystemExit when torch and a booted engine disagree."""
    plain = [each for each in endpoints if each.answers is not None]
    asked = [*plain[:booted], *(each for each in endpoints if each.answers is None)]
    answers = await booted_answers(ChurnPool(folder, free_port(), slots, flags=("--isolation", "reset")), asked)
    differ = [each.name for each in plain[:booted] if answers[each.name] != each.answers]
    if differ:
        raise SystemExit(f"plain torch and freshly booted engines disagree, so there is no oracle: {differ}")
    known = [with_answers(each, answers[each.name]) if each.answers is None else each for each in endpoints]
    if len({each.answers for each in known}) < len(known):
        raise SystemExit("two models give the same answers; take another --seed")
    return known


async def run(args: argparse.Namespace, folder: Path) -> tuple[Tally, int]:
    console.print(f"making {args.models} models, {args.awq} of them AWQ …")
    endpoints = make_endpoints(folder / "models", args.models, args.awq, args.seed)
    begun = time.monotonic()
    endpoints = await oracle(folder / "oracle", endpoints, args.booted, args.slots)
    console.print(f"oracle: every answer known after {time.monotonic() - begun:.0f} s")
    pool = ChurnPool(folder / "pool", free_port(), args.slots)
    await pool.start()
    thin = [
        ThinPredictor(each, free_port(), pool.url, folder / f"{each.name}.log") for each in endpoints[: args.predictors]
    ]
    plan = ChurnPlan(60 * args.minutes, args.kill_every_s, args.clients, args.think_s, args.seed)
    churn = Churn(pool, thin, endpoints, plan)
    watcher = asyncio.create_task(watch(churn.tally))
    try:
        tally = await churn.run()
    finally:
        watcher.cancel()
        for predictor in thin:
            predictor.kill()
        if pool.process.poll() is None:
            await pool.kill()
    return tally, pool.starts


async def watch(tally: Tally) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(30)
        console.print(
            f"{time.monotonic() - begun:4.0f} s  {tally.completed.total()} completed, {tally.failures.total()} clean "
            f"failures, {tally.kills.total()} kills, {len(tally.wrong)} wrong"
        )


def table(tally: Tally, args: argparse.Namespace) -> Table:
    machine = f"{args.models} models, {args.slots} slots, {args.minutes:g} minutes, {time.strftime('%Y-%m-%d')}"
    shown = Table(title=f"churn: {machine}", show_header=False)
    shown.add_row("completed, each as the oracle says", str(tally.completed.total()))
    shown.add_row("  by lease / through a predictor", f"{tally.completed['lease']} / {tally.completed['predictor']}")
    shown.add_row("  models that answered", f"{len(tally.models)} of {args.models}")
    shown.add_row("clean failures", str(tally.failures.total()))
    for kind, count in tally.failures.most_common():
        shown.add_row(f"  {kind}", str(count))
    shown.add_row("kill -9", ", ".join(f"{count} {kind}" for kind, count in tally.kills.most_common()))
    waits = tally.all_waits_s()
    shown.add_row("lease wait p50 / p95", f"{percentile(waits, 50):.2f} / {percentile(waits, 95):.2f} s")
    for path, waits_s in sorted(tally.waits_s.items()):
        figures = f"{percentile(waits_s, 50):.2f} / {percentile(waits_s, 95):.2f} s"
        shown.add_row(f"  {path} ({len(waits_s)})", figures)
    shown.add_row("request p50 / p95", f"{percentile(tally.took_s, 50):.2f} / {percentile(tally.took_s, 95):.2f} s")
    shown.add_row("wrong", str(len(tally.wrong)))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--awq", type=int, default=5, help="how many of them are AWQ")
    parser.add_argument("--booted", type=int, default=50, help="float32 models checked by a fresh boot")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--predictors", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--think_s", type=float, default=0.8, help="mean pause of a client between requests")
    parser.add_argument("--kill_every_s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    # So that service and predictors end with it, also when it is stopped from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-churn-") as work:
        tally, starts = asyncio.run(run(args, Path(work)))
    console.print(table(tally, args))
    for line in tally.wrong[:20]:
        console.print(line, markup=False, style="red")
    figures = {
        "completed": tally.completed,
        "failures": tally.failures,
        "kills": tally.kills,
        "waits_s": tally.waits_s,
        "took_s": tally.took_s,
        "models_answered": len(tally.models),
        "service_starts": starts,
        "wrong": tally.wrong,
        "plan": vars(args),
    }
    (OUT / "churn.json").write_text(json.dumps(figures, indent=1))
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
