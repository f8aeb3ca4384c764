"""What keeping engines warm costs and saves, and what each predictor of reuse is worth, in virtual time.

    python benchmarks/policy.py [--azure_invocations FILE --azure_durations FILE | --servegen FOLDER | --trace FILE]

A request's wait is its added latency until its endpoint holds a ready engine; a cold start is a request that waits over
5 s, for any reason. Slot-seconds are accelerator slots held, boots included. Each variant of the policy is swept over
its price (slot-seconds that one avoided cold start is worth) and read off at the slot-hours that Knative's window took.
Prints tables, and writes a picture and the raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from pilotlight_pool.policy.keep_warm import keep_alive
from pilotlight_pool.policy.placement import model_worth
from pool_simulator import fixed_window, public_traces, servegen, synthetic, warm_pool
from pool_simulator.outcome import COLD_S, Outcome
from pool_simulator.request_trace import Trace, read_csv

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "out"
BOOT_S = 29.0
# Stable window, and with the grace period on top.
KNATIVE_KEEP_S, KNATIVE_WINDOW_S = 90.0, 60.0
KEEPS_S = (10.0, 30.0, 60.0, 90.0, 180.0, 300.0, 600.0, 1200.0)
PRICES = (10.0, 40.0, 160.0, 640.0, 2560.0)
NEVER = 10**9
STYLES = ("k+-", "o-", "x:", "d--", "v:")


@dataclass(frozen=True)
class Figures:
    """One row: everything that is reported of one policy on one trace."""

    policy: str
    slot_hours: float
    cold_rate: float
    over_1s: float
    p99_s: float
    boots: int
    swapped_rate: float
    peak_slots: int


def figures(outcome: Outcome) -> Figures:
    return Figures(
        outcome.policy,
        outcome.slot_seconds / 3600,
        outcome.cold_rate,
        outcome.slower_than(1.0),
        outcome.percentile_s(99),
        outcome.boots,
        len(outcome.swap_waits_s) / max(1, outcome.requests),
        outcome.peak_slots,
    )


@contextlib.contextmanager
def least_recently_used() -> Iterator[None]:
    """Whose engine is overwritten: the one used longest ago, instead of greedy-dual's choice."""
    uses = itertools.count(1)

    def used(state: model_worth.WorthState, model: str, back_s: float) -> model_worth.WorthState:
        return replace(state, models={**state.models, model: model_worth.Worth(1, float(next(uses)))})

    with mock.patch.object(model_worth, "used", used):
        yield


@dataclass(frozen=True)
class Variant:
    name: str
    spec: warm_pool.PoolSpec
    within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def at(self, trace: Trace, price: float) -> Figures:
        spec = replace(self.spec, keep=replace(self.spec.keep, price_slot_s=price))
        with self.within():
            return figures(warm_pool.simulate(trace, spec, f"{self.name}, price {price:.0f}"))


def variants(slots: int) -> list[Variant]:
    keep = keep_alive.KeepAliveSpec()
    base = warm_pool.PoolSpec(slots=slots, boot_s=BOOT_S, keep=keep)
    blind = replace(keep, min_gaps=NEVER, max_standard_keep_alive_s=math.inf)
    return [
        Variant("whole policy", base),
        Variant("without the histogram (a fixed time)", replace(base, keep=blind)),
        Variant("without greedy-dual (least recently used)", base, least_recently_used),
        Variant("without any: fixed time, LRU", replace(base, keep=blind), least_recently_used),
    ]


def at_slot_hours(points: list[Figures], slot_hours: float) -> float:
    """The cold-start rate of a sweep at so many slot-hours: between its two nearest points, in the logarithms."""
    ranked = sorted(points, key=lambda point: point.slot_hours)
    below = [point for point in ranked if point.slot_hours <= slot_hours]
    above = [point for point in ranked if point.slot_hours > slot_hours]
    if not below or not above:
        return (below[-1] if below else above[0]).cold_rate
    low, high = below[-1], above[0]
    share = math.log(slot_hours / low.slot_hours) / math.log(high.slot_hours / low.slot_hours)
    least = 1e-6
    return math.exp((1 - share) * math.log(max(least, low.cold_rate)) + share * math.log(max(least, high.cold_rate)))


def table(title: str, rows: list[Figures]) -> Table:
    view = Table(title=title, title_justify="left")
    for name in ("policy", "slot-hours", f"cold (> {COLD_S:g} s)", "> 1 s", "p99", "boots", "by swap", "most slots"):
        view.add_column(name, justify="left" if name == "policy" else "right")
    for row in rows:
        view.add_row(
            row.policy, f"{row.slot_hours:,.1f}", f"{row.cold_rate:.2%}", f"{row.over_1s:.1%}", f"{row.p99_s:.2f} s",
            f"{row.boots:,}", f"{row.swapped_rate:.1%}", str(row.peak_slots),
        )  # fmt: skip
    return view


def picture(curves: dict[str, list[Figures]], knative: Figures, path: Path, title: str) -> None:
    sheet, axes = plt.subplots(figsize=(9, 5.5))
    for (name, points), style in zip(curves.items(), STYLES, strict=False):
        ranked = sorted(points, key=lambda p: p.slot_hours)
        rates = [max(1e-5, p.cold_rate) * 100 for p in ranked]
        axes.plot([p.slot_hours for p in ranked], rates, style, label=name, markersize=4)
    axes.plot([knative.slot_hours], [knative.cold_rate * 100], "k*", markersize=12, label="Knative, 60 s + 30 s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("slot-hours held")
    axes.set_ylabel(f"requests that wait > {COLD_S:g} s (%)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    sheet.suptitle(title)
    sheet.tight_layout()
    sheet.savefig(path, dpi=110)


def load(options: argparse.Namespace) -> tuple[Trace, str]:
    if options.trace:
        return read_csv(options.trace), options.trace.stem
    if options.azure_invocations:
        trace = public_traces.read_azure_functions(
            options.azure_invocations, options.azure_durations, fingerprints=options.fingerprints,
            max_endpoints=options.endpoints, seed=options.seed, most_per_endpoint=options.most_per_endpoint,
        )  # fmt: skip
        return trace, "azure-functions-2019"
    if options.servegen:
        trace = servegen.read_servegen(
            options.servegen, day=options.day, days=options.days, fingerprints=options.fingerprints,
            most_per_client=options.most_per_endpoint, mean_work_s=4.0, seed=options.seed,
        )  # fmt: skip
        return trace, f"servegen-{options.servegen.name}"
    spec = synthetic.SyntheticSpec(
        options.endpoints, options.days, options.requests, options.fingerprints, options.seed
    )
    return synthetic.generate(spec), f"synthetic-{options.seed}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="about how many the synthetic trace has")
    parser.add_argument("--endpoints", type=int, default=60)
    parser.add_argument("--days", type=float, default=2.0)
    parser.add_argument("--day", type=int, default=2, help="of ServeGen's 14, the first to take")
    parser.add_argument("--hours", type=float, default=math.inf, help="so much of the trace")
    parser.add_argument("--fingerprints", type=int, default=5, help="architectures that the endpoints share")
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most_per_endpoint", type=int, default=500, help="busier ones, never at zero, are left out")
    parser.add_argument("--trace", type=Path, help="CSV: timestamp_s,endpoint,tenant,duration_s[,fingerprint]")
    parser.add_argument("--azure_invocations", type=Path, nargs="+", help="invocations per function and minute")
    parser.add_argument("--azure_durations", type=Path, nargs="*", default=[], help="function durations")
    parser.add_argument("--servegen", type=Path, help="folder of one model's clients")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.disable(logging.CRITICAL)
    console = Console(width=140)
    began_s = time.perf_counter()
    trace, name = load(options)
    trace = trace.until(options.hours * 3600)
    families = len({endpoint.fingerprint for endpoint in trace.endpoints})
    title = (
        f"{name}: {len(trace.arrivals_s):,} requests, {len(trace.endpoints)} endpoints, {families} architectures, "
        f"{trace.horizon_s / 3600:.1f} h, {options.slots} slots"
    )
    console.print(title)
    knative = figures(fixed_window.simulate(trace, KNATIVE_KEEP_S, BOOT_S, "Knative, 60 s window + 30 s grace"))
    window = figures(fixed_window.simulate(trace, KNATIVE_WINDOW_S, BOOT_S, "Knative, 60 s window"))
    keeps = [figures(fixed_window.simulate(trace, keep, BOOT_S, f"pods kept {keep:.0f} s")) for keep in KEEPS_S]
    chosen = variants(options.slots)
    runs = [(variant, price) for variant in chosen for price in PRICES]
    curves: dict[str, list[Figures]] = {variant.name: [] for variant in chosen}
    for number, (variant, price) in enumerate(runs, start=1):
        curves[variant.name].append(variant.at(trace, price))
        console.print(f"{number}/{len(runs)} {curves[variant.name][-1].policy}, {time.perf_counter() - began_s:.0f} s")
    console.print(table("a pod per endpoint", [knative, window, *keeps]))
    for rows in curves.values():
        console.print(table(rows[0].policy.split(",")[0], rows))
    # Where the curve of the whole policy ends, below Knative's slot-hours, is as far as all of them can be compared.
    whole = curves[chosen[0].name]
    hours = min(knative.slot_hours, max(point.slot_hours for point in whole))
    marks = {f: hours * f for f in (1.0, 0.5, 0.25)}
    view = Table(title="cold starts at equal slot-hours", title_justify="left")
    view.add_column("policy")
    for share, at in marks.items():
        view.add_column(f"{at:,.1f} h ({share:g})", justify="right")
    sweeps = {"a pod per endpoint": keeps, **curves}
    equal = {name: [at_slot_hours(points, at) for at in marks.values()] for name, points in sweeps.items()}
    for name, rates in equal.items():
        view.add_row(name, *(f"{rate:.2%}" for rate in rates))
    console.print(view)
    console.print(f"{time.perf_counter() - began_s:.0f} s for all simulations")
    OUT.mkdir(parents=True, exist_ok=True)
    picture(sweeps, knative, OUT / f"policy-{name}.png", title)
    raw = {
        "trace": title, "boot_s": BOOT_S, "cold_s": COLD_S, "knative": [asdict(knative), asdict(window)],
        "curves": {variant: [asdict(point) for point in points] for variant, points in curves.items()},
        "slot_hours": list(marks.values()), "cold_rate_at_slot_hours": equal,
    }  # fmt: skip
    (OUT / f"policy-{name}.json").write_text(json.dumps(raw, indent=1))
    console.print(f"picture: {OUT / f'policy-{name}.png'}")


if __name__ == "__main__":
    main()
