"""Correctness under churn: 50 endpoints on 2 slots, random arrivals, and every 20 s something is killed or stopped.

    python benchmarks/churn.py [--minutes 10] [--apart] [--no-gateway]

Half of the traffic goes through a gateway's short way. Killed with SIGKILL: a random engine, the service, the zygote, a
predictor, the gateway, and the engine under a stream that runs.
Stopped with SIGSTOP: an engine, for some seconds or for good. The oracle comes first: what plain torch says each
float32 model answers, and what an engine answers that was booted for that model alone. Then the traffic. Passes when
every completed answer is its model's own, no tenant finds another's prompt cached, nothing hangs, no stream is cut off
without a reason, no lease, process, socket or descriptor is left, the store is whole, and every failure is clean.
Prints what happened, writes it and a picture to benchmarks/out, exits 1 when it did not pass.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from churn_picture import draw
from processes import free_port
from rich.console import Console
from rich.table import Table

from churn_harness.apart import ApartChurnPool
from churn_harness.bucket import bucket, uri_of
from churn_harness.driver import APART_KINDS, KINDS, Churn, ChurnPlan
from churn_harness.gateway_door import GatewayDoor
from churn_harness.models import Endpoint, make_endpoints, trained_endpoints, twin
from churn_harness.oracle import booted_answers
from churn_harness.pool import ChurnPool, ThinPredictor
from churn_harness.tally import Tally, percentile

OUT = Path(__file__).parent / "out"
TWINS = 3
STORED_EACH = 5
POOL_FLAGS = ("--keep_alive_price_s", "10", "--uncontested_keep_s", "0")
console = Console(width=130)


async def oracle(folder: Path, endpoints: list[Endpoint], booted: int, slots: int) -> list[Endpoint]:
    """The endpoints with all answers known. Raises SystemExit when torch and a booted engine disagree."""
    plain = [each for each in endpoints if each.answers is not None]
    asked = [*plain[:booted], *(each for each in endpoints if each.answers is None)]
    # Nobody falls silent here, and on a machine with other work an answer may take longer than a heartbeat's time.
    flags = ("--isolation", "reset", "--lease_expires_s", "60")
    answered = await booted_answers(ChurnPool(folder, free_port(), slots, flags=flags), asked)
    differ = [each.name for each in plain[:booted] if answered[each.name].answers != each.answers]
    if differ:
        raise SystemExit(f"plain torch and freshly booted engines disagree, so there is no oracle: {differ}")
    known = [each if each.answers is not None else answered[each.name] for each in endpoints]
    if len({each.answers for each in known}) < len({each.folder for each in known}):
        raise SystemExit("two models give the same answers; take another --seed")
    return known


async def run(args: argparse.Namespace, folder: Path) -> tuple[Tally, ChurnPool]:
    trained = trained_endpoints()
    count = args.endpoints - len(trained) - TWINS
    console.print(f"making {count} models, {args.awq} of them AWQ …")
    random = make_endpoints(folder / "models", count, args.awq, args.predictors, args.seed)
    begun = time.monotonic()
    endpoints = await oracle(folder / "oracle", [*random, *trained], args.booted, args.slots)
    twins = [(each, twin(each)) for each in endpoints[args.predictors : args.predictors + TWINS]]
    endpoints += [other for _, other in twins]
    judged = sum(map(sum, (each.judged for each in endpoints)))
    console.print(
        f"oracle: every answer known after {time.monotonic() - begun:.0f} s; {judged} of "
        f"{sum(len(each.prompts) * each.output_tokens for each in endpoints)} tokens are free of near-ties"
    )
    stored = [each for each in endpoints[args.predictors : count] if int(each.name[-2:]) % STORED_EACH == 0]
    endpoints = [dataclasses.replace(each, uri=uri_of(each.folder)) if each in stored else each for each in endpoints]
    with bucket([each.folder for each in stored], free_port(), folder) as environment:
        kind = ApartChurnPool if args.apart else ChurnPool
        pool = kind(folder / "pool", free_port(), args.slots, flags=POOL_FLAGS, environment=environment)
        return await traffic(args, folder, pool, endpoints, twins), pool


async def traffic(
    args: argparse.Namespace,
    folder: Path,
    pool: ChurnPool,
    endpoints: list[Endpoint],
    twins: list[tuple[Endpoint, Endpoint]],
) -> Tally:
    await pool.start()
    thin = [
        ThinPredictor(each, free_port(), pool.url, folder / f"{each.name}.log") for each in endpoints[: args.predictors]
    ]
    kinds = (APART_KINDS if args.apart else KINDS) + (("gateway",) if args.gateway else ())
    plan = ChurnPlan(60 * args.minutes, args.kill_every_s, args.clients, args.think_s, args.seed, kinds)
    door = GatewayDoor(folder / "gateway", free_port(), pool.url, endpoints) if args.gateway else None
    churn = Churn(pool, thin, endpoints, plan, twins, door)
    watcher = asyncio.create_task(watch(churn.tally))
    try:
        tally = await churn.run()
    finally:
        watcher.cancel()
        for predictor in thin:
            predictor.kill()
        if door is not None:
            door.kill()
        if pool.process.poll() is None:
            await pool.kill()
        doors = [door.log] if door is not None else []
        keep_logs([*pool.all_logs(), *(predictor.log for predictor in thin), *doors])
    return tally


def keep_logs(logs: list[Path]) -> None:
    folder = OUT / "churn-logs"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for log in logs:
        (folder / log.name).write_bytes(log.read_bytes())


async def watch(tally: Tally) -> None:
    while True:
        await asyncio.sleep(30)
        console.print(
            f"{time.monotonic() - tally.began_s:4.0f} s  {tally.completed.total()} completed, "
            f"{tally.failures.total()} clean failures, {tally.kills.total()} kills, {len(tally.wrong)} wrong"
        )


def table(tally: Tally, args: argparse.Namespace) -> Table:
    machine = f"{args.endpoints} endpoints, {args.slots} slots, {args.minutes:g} minutes, {time.strftime('%Y-%m-%d')}"
    shown = Table(title=f"churn: {machine}", show_header=False)
    shown.add_row("completed, each as the oracle says", str(tally.completed.total()))
    ways = " / ".join(str(tally.completed[way]) for way in ("lease", "predictor", "gateway"))
    shown.add_row("  by lease / through a predictor / through the gateway", ways)
    shown.add_row("  endpoints that answered", f"{len(tally.models)} of {args.endpoints}")
    shown.add_row("  tokens compared", str(tally.judged_tokens))
    shown.add_row("clean failures", str(tally.failures.total()))
    for kind, count in tally.failures.most_common():
        shown.add_row(f"  {kind}", str(count))
    shown.add_row("killed or stopped", counts(tally.kills))
    shown.add_row("streams that lost their engine", counts(tally.resumed))
    shown.add_row("probes of another tenant's cache, by path", counts(tally.probes))
    shown.add_row("requests with cached tokens, all the tenant's own", str(tally.cached_requests))
    shown.add_row("ill-mannered clients", counts(tally.manners))
    waits = tally.all_waits_s()
    shown.add_row("lease wait p50 / p95", f"{percentile(waits, 50):.2f} / {percentile(waits, 95):.2f} s")
    for path, waits_s in sorted(tally.waits_s.items()):
        figures = f"{percentile(waits_s, 50):.2f} / {percentile(waits_s, 95):.2f} s"
        shown.add_row(f"  {path} ({len(waits_s)})", figures)
    shown.add_row("request p50 / p95", f"{percentile(tally.took_s, 50):.2f} / {percentile(tally.took_s, 95):.2f} s")
    for name, value in tally.invariants.items():
        shown.add_row(f"at the end: {name}", value)
    shown.add_row("wrong", str(len(tally.wrong)))
    return shown


def counts(counter: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counter.items() if count) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--endpoints", type=int, default=50)
    parser.add_argument("--awq", type=int, default=4, help="how many of the random models are AWQ")
    parser.add_argument("--booted", type=int, default=50, help="float32 models checked by a fresh boot")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--predictors", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--think_s", type=float, default=0.8, help="mean pause of a client between requests")
    parser.add_argument("--kill_every_s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-gateway", action="store_false", dest="gateway", help="leases and predictors alone")
    parser.add_argument("--apart", action="store_true", help="coordinator and agent are two processes, killed alone")
    args = parser.parse_args()
    # So that service and predictors end with it, also when it is stopped from outside.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-churn-") as work:
        tally, pool = asyncio.run(run(args, Path(work)))
    console.print(table(tally, args))
    for line in tally.wrong[:20]:
        console.print(line, markup=False, style="red")
    figures = {
        "completed": tally.completed,
        "failures": tally.failures,
        "kills": tally.kills,
        "resumed": tally.resumed,
        "probes": tally.probes,
        "manners": tally.manners,
        "waits_s": tally.waits_s,
        "took_s": tally.took_s,
        "endpoints_answered": len(tally.models),
        "service_starts": pool.starts,
        "invariants": tally.invariants,
        "wrong": tally.wrong,
        "plan": vars(args),
        "happened": [dataclasses.astuple(each) for each in tally.happened],
    }
    (OUT / "churn.json").write_text(json.dumps(figures, indent=1))
    draw(tally.happened, 60 * args.minutes, OUT / "churn.png")
    console.print("picture: benchmarks/out/churn.png; logs: benchmarks/out/churn-logs")
    sys.exit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
