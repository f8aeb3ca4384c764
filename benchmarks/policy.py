"""What keeping engines warm costs and saves on public traces, in virtual time: Knative's window, fixed keep-alive,
ours, and ours with each part left out; and how many tenants a slot carries.

    python benchmarks/policy.py [--traces FOLDER] [--only NAME] [--profile cpu|gpu]
    python benchmarks/policy.py --made_up | --trace FILE

A request's wait is its added latency until its endpoint holds a ready engine. Cold is told in two ways, the same for
all: it waited for a boot (a fork too), or it waited over 1 s for whatever. Slot-hours are accelerator slots held, boots
included. Every policy is swept over its knob and read off at equal slot-hours. Ours is the product's coordinator and
policy in virtual time; what things cost stands in pool_simulator/costs.py. Prints tables, and writes pictures and the
raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import policy_picture
from rich.console import Console
from rich.table import Table

from pool_simulator import variants
from pool_simulator.costs import PROFILES, Costs
from pool_simulator.crowding import SLOTS, crowds, most_tenants
from pool_simulator.frontier import Figures, at_slot_hours
from pool_simulator.request_trace import Trace, read_csv
from pool_simulator.trace_catalog import PUBLIC, made_up, some_endpoints

OUT = Path(__file__).parent / "out"
TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"
BOUND_S = 2.0


@dataclass(frozen=True, slots=True)
class Replay:
    """`crowd`: what tenants per slot are counted on."""

    name: str
    part: str
    trace: Trace
    crowd: Trace
    slots: int


def replays(options: argparse.Namespace) -> Iterator[Replay]:
    """Exits with a sentence where a trace is asked for that is not there."""
    if options.trace or options.made_up:
        trace = read_csv(options.trace) if options.trace else made_up()
        name = options.trace.stem if options.trace else "made-up"
        yield Replay(name, "all of it", trace, trace, options.slots or 4)
        return
    chosen = [each for each in PUBLIC if options.only in {None, each.name}]
    missing = [path for each in chosen for path in each.missing(options.traces)]
    if missing:
        names = "\n  ".join(str(path) for path in missing)
        raise SystemExit(
            f"The public traces are no part of this repository, and these are not there:\n  {names}\n"
            "Give their folder (--traces), choose one that is there (--only NAME), or take a made-up one (--made_up)."
        )
    for each in chosen:
        whole = each.load(options.traces)
        trace = some_endpoints(whole, each.endpoints).until(each.hours * 3600)
        yield Replay(each.name, each.part, trace, whole.until(each.crowd_hours * 3600), options.slots or each.slots)


def study(replay: Replay, costs: Costs, console: Console) -> None:
    began_s, trace = time.perf_counter(), replay.trace
    families = len({endpoint.fingerprint for endpoint in trace.endpoints})
    title = (
        f"{replay.name} ({costs.name} costs): {len(trace.arrivals_s):,} requests, {len(trace.endpoints)} endpoints, "
        f"{families} architectures, {trace.horizon_s / 3600:.1f} h, {replay.slots} slots; {replay.part}"
    )
    console.print(f"\n[bold]{title}[/bold]")
    sweeps = {variants.KNATIVE: variants.knative(trace, costs), variants.FIXED: variants.fixed(trace, costs)}
    for variant in variants.ours(costs, replay.slots):
        sweeps[variant.name] = list(variant.sweep(trace))
        console.print(f"{variant.name}: {time.perf_counter() - began_s:.0f} s", style="dim")
    console.print(_points(sweeps))
    console.print(_equal(sweeps))
    found = list(crowds(replay.crowd, costs, BOUND_S))
    for slots in SLOTS:
        most = most_tenants(found, slots, BOUND_S)
        console.print(f"{slots} slots: {most} tenants within {BOUND_S:g} s added at p99 ({most / slots:.0f} a slot)")
    name = f"policy-{replay.name}-{costs.name}"
    policy_picture.draw(title, sweeps, found, BOUND_S, OUT / f"{name}.png")
    raw = {
        "trace": title, "costs": asdict(costs), "crowds": [asdict(crowd) for crowd in found],
        "sweeps": {policy: [asdict(point) for point in points] for policy, points in sweeps.items()},
    }  # fmt: skip
    (OUT / f"{name}.json").write_text(json.dumps(raw, indent=1))
    console.print(f"{time.perf_counter() - began_s:.0f} s; picture: {OUT / f'{name}.png'}")


def _points(sweeps: dict[str, list[Figures]]) -> Table:
    view = Table()
    for name in ("policy", "knob", "slot-hours", "boot", "> 1 s", "p50", "p99", "boots", "by swap", "most slots"):
        view.add_column(name, justify="left" if name == "policy" else "right")
    for points in sweeps.values():
        for row in points:
            view.add_row(
                row.policy, row.knob, f"{row.slot_hours:,.1f}", f"{row.boot_rate:.2%}", f"{row.cold_rate:.2%}",
                f"{row.p50_s:.2f} s", f"{row.p99_s:.2f} s", f"{row.boots:,}", f"{row.swapped_rate:.1%}",
                str(row.peak_slots or ""),
            )  # fmt: skip
        view.add_section()
    return view


def _equal(sweeps: dict[str, list[Figures]]) -> Table:
    """At the slot-hours that Knative took with each of its windows: its rate, and how many times less others have."""
    view = Table(title="at the slot-hours of Knative's windows: wait for a boot / wait > 1 s", title_justify="left")
    knative = sweeps[variants.KNATIVE]
    view.add_column("policy")
    for at in knative:
        view.add_column(f"{at.knob}: {at.slot_hours:,.1f} h", justify="right")
    for name, points in sweeps.items():
        view.add_row(name, *(_rates(points, at.slot_hours) for at in knative))
    return view


def _rates(points: Sequence[Figures], slot_hours: float) -> str:
    boot = at_slot_hours(points, slot_hours, lambda point: point.boot_rate)
    cold = at_slot_hours(points, slot_hours, lambda point: point.cold_rate)
    return "takes more" if boot is None or cold is None else f"{boot:.2%} / {cold:.2%}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=TRACES, help=f"folder of the public traces (default {TRACES})")
    parser.add_argument("--only", choices=[each.name for each in PUBLIC], help="this trace alone")
    parser.add_argument("--profile", choices=list(PROFILES), action="append", help="default: all of them")
    parser.add_argument("--slots", type=int, help="of the pool, where not the trace's own")
    parser.add_argument("--made_up", action="store_true", help="a small trace from a seed instead")
    parser.add_argument("--trace", type=Path, help="CSV: timestamp_s,endpoint,tenant,duration_s[,fingerprint]")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.disable(logging.CRITICAL)
    console = Console(width=160)
    for replay in replays(options):
        for name in options.profile or PROFILES:
            study(replay, PROFILES[name], console)


if __name__ == "__main__":
    main()
