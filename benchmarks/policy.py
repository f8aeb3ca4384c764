"""What keeping engines warm costs and saves: Knative's window, fixed keep-alive, and the warm pool, on one trace.

    python benchmarks/policy.py [--requests 300000] [--trace FILE | --azure_invocations FILE … | --burstgpt FILE]

A request's wait is its added latency; a cold start is a request that waits over 5 s for an engine, for any reason.
Slot-seconds are accelerator slots held, boots included. Every policy gets as many slots as it asks for and pays the
same 29 s for a boot (measured on a cluster for Knative; Pilotlight's own boots are faster, which is shown on its own).
Prints tables, and writes a picture and the raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from pilotlight_pool.policy.keep_warm.forecast import ForecastSpec
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.simulator import fixed_window, public_traces, synthetic, warm_pool
from pilotlight_pool.simulator.outcome import COLD_S, Outcome
from pilotlight_pool.simulator.request_trace import Endpoint, Trace, read_csv

mpl.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parent / "out"
BOOT_S = 29.0
# Stable window, and with the grace period on top. With the default burst capacity the activator is in the path already
# and Knative waits for the window only; the headline gives it both.
KNATIVE_KEEP_S, KNATIVE_WINDOW_S = 90.0, 60.0
KEEPS_S = (10.0, 30.0, 60.0, 90.0, 180.0, 300.0, 600.0, 1200.0, 3600.0)
PRICES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


@dataclass(frozen=True)
class Figures:
    """One row: everything that is reported of one policy on one trace."""

    policy: str
    slot_hours: float
    cold_rate: float
    over_1s: float
    p99_s: float
    p999_s: float
    boots: int
    swapped_rate: float
    swap_p99_s: float
    peak_slots: int


def figures(outcome: Outcome) -> Figures:
    return Figures(
        outcome.policy,
        outcome.slot_seconds / 3600,
        outcome.cold_rate,
        outcome.slower_than(1.0),
        outcome.percentile_s(99),
        outcome.percentile_s(99.9),
        outcome.boots,
        len(outcome.swap_waits_s) / max(1, outcome.requests),
        outcome.swap_p99_s,
        outcome.peak_slots,
    )


def pool(trace: Trace, spec: warm_pool.PoolSpec, name: str) -> Callable[[float], Figures]:
    """Ours as a function of its one knob, the slot-seconds that one avoided cold start is worth."""

    def at_price(price: float) -> Figures:
        priced = replace(spec, keep=replace(spec.keep, price_slot_s=price))
        return figures(warm_pool.simulate(trace, priced, f"{name}, price {price:.0f}"))

    return at_price


def at_equal_slots(curve: Callable[[float], Figures], slot_hours: float) -> Figures:
    """The point of `curve` that holds as many slot-hours, within 1 %: regula falsi over the logarithm of the price."""
    low, high = curve(50.0), curve(2000.0)
    at_low, at_high = math.log(50.0), math.log(2000.0)
    best = min(low, high, key=lambda point: abs(point.slot_hours - slot_hours))
    for _ in range(8):
        if abs(best.slot_hours - slot_hours) <= 0.01 * slot_hours:
            break
        slope = (high.slot_hours - low.slot_hours) / (at_high - at_low)
        # Kept inside the bracket, so that one flat end cannot stall it; outside it when the bracket does not hold.
        step = (slot_hours - low.slot_hours) / slope
        width = at_high - at_low
        inside = low.slot_hours <= slot_hours <= high.slot_hours
        at = at_low + (min(0.9 * width, max(0.1 * width, step)) if inside else max(-3.0, min(width + 3.0, step)))
        point = curve(math.exp(at))
        best = min(best, point, key=lambda other: abs(other.slot_hours - slot_hours))
        if point.slot_hours < slot_hours:
            low, at_low = point, at
        else:
            high, at_high = point, at
    return best


def dealt(trace: Trace, architectures: int) -> Trace:
    """The same requests with the endpoints dealt evenly to so many architectures; one each where there are enough."""
    endpoints = (
        Endpoint(e.name, e.tenant, f"architecture-{place % architectures}") for place, e in enumerate(trace.endpoints)
    )
    return replace(trace, endpoints=tuple(endpoints))


def table(title: str, rows: list[Figures]) -> Table:
    view = Table(title=title, title_justify="left")
    for name in (
        "policy",
        "slot-hours",
        f"cold (> {COLD_S:g} s)",
        "> 1 s",
        "p99",
        "p99.9",
        "boots",
        "by swap",
        "swap p99",
    ):
        view.add_column(name, justify="left" if name == "policy" else "right")
    for row in rows:
        view.add_row(
            row.policy,
            f"{row.slot_hours:,.0f}",
            f"{row.cold_rate:.2%}",
            f"{row.over_1s:.1%}",
            f"{row.p99_s:.2f} s",
            f"{row.p999_s:.2f} s",
            f"{row.boots:,}",
            f"{row.swapped_rate:.1%}",
            f"{row.swap_p99_s:.2f} s" if row.swapped_rate else "-",
        )
    return view


def picture(curves: dict[str, list[Figures]], marks: list[Figures], path: Path, title: str) -> None:
    sheet, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8))
    for (name, points), style in zip(curves.items(), ("o-", "s-", "^--", "x:"), strict=False):
        ranked = sorted(points, key=lambda p: p.slot_hours)
        hours = [p.slot_hours for p in ranked]
        left.plot(hours, [max(1e-5, p.cold_rate) * 100 for p in ranked], style, label=name, markersize=4)
        right.plot(hours, [max(0.01, p.p99_s) for p in ranked], style, label=name, markersize=4)
    for mark in marks:
        left.plot([mark.slot_hours], [mark.cold_rate * 100], "k*", markersize=12)
        left.annotate(
            mark.policy.split(",")[0],
            (mark.slot_hours, mark.cold_rate * 100),
            xytext=(6, 6),
            textcoords="offset points",
        )
    for axes, label in ((left, f"requests that wait > {COLD_S:g} s (%)"), (right, "p99 added latency (s)")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("slot-hours held")
        axes.set_ylabel(label)
        axes.grid(visible=True, which="both", alpha=0.2)
    left.legend(fontsize=8)
    sheet.suptitle(title)
    sheet.tight_layout()
    sheet.savefig(path, dpi=110)


def load(options: argparse.Namespace) -> tuple[Trace, str]:
    if options.trace:
        return read_csv(options.trace), options.trace.name
    if options.azure_invocations:
        trace = public_traces.read_azure_functions(
            options.azure_invocations,
            options.azure_durations,
            fingerprints=options.fingerprints,
            max_endpoints=options.endpoints,
            seed=options.seed,
        )
        return trace, "Azure Functions 2019"
    if options.burstgpt:
        trace = public_traces.read_burstgpt(
            options.burstgpt,
            endpoints=options.endpoints,
            fingerprints=options.fingerprints,
            seed=options.seed,
            days=options.days,
        )
        return trace, "BurstGPT"
    spec = synthetic.SyntheticSpec(
        options.endpoints, options.days, options.requests, options.fingerprints, options.seed
    )
    return synthetic.generate(spec), f"synthetic, seed {options.seed}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300_000, help="about how many the synthetic trace has")
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--fingerprints", type=int, default=5, help="architectures that the endpoints share")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", type=Path, help="CSV: timestamp_s,endpoint,tenant,duration_s[,fingerprint]")
    parser.add_argument("--azure_invocations", type=Path, nargs="+", help="invocations_per_function_md.anon.d*.csv")
    parser.add_argument(
        "--azure_durations", type=Path, nargs="*", default=[], help="function_durations_percentiles.*.csv"
    )
    parser.add_argument("--burstgpt", type=Path, help="BurstGPT_*.csv")
    return parser.parse_args()


def main() -> None:
    options = parse()
    console = Console(width=140)
    began_s = time.perf_counter()
    trace, source = load(options)
    count = len(trace.arrivals_s)
    families = len({endpoint.fingerprint for endpoint in trace.endpoints})
    title = f"{source}: {count:,} requests, {len(trace.endpoints)} endpoints, {families} architectures"
    console.print(f"{title}, {trace.horizon_s / 86_400:.1f} days")

    def fixed(keep_s: float, name: str) -> Figures:
        return figures(fixed_window.simulate(trace, keep_s, BOOT_S, name))

    knative = fixed(KNATIVE_KEEP_S, "Knative, 60 s window + 30 s grace")
    window_only = fixed(KNATIVE_WINDOW_S, "Knative, 60 s window (activator in path)")
    keeps = [fixed(keep_s, f"fixed keep-alive {keep_s:.0f} s") for keep_s in KEEPS_S]
    base = warm_pool.PoolSpec(boot_s=BOOT_S, keep=KeepAliveSpec(boot_s=BOOT_S))
    ours = pool(trace, base, "Pilotlight")
    swept = [ours(price) for price in PRICES]
    console.print(table("the whole trade-off", [knative, window_only, *keeps, *swept]))

    unshared = pool(dealt(trace, len(trace.endpoints)), base, "nothing shared")
    variants = {
        "Pilotlight": ours,
        "swap, but a fixed keep-alive": pool(trace, replace(base, rule="fixed"), "swap, fixed keep-alive"),
        "99th percentile cut": pool(
            trace, replace(base, keep=replace(base.keep, high_percentile=99.0)), "p99 cut (ATC'20)"
        ),
        "with forecast": pool(trace, replace(base, forecast=ForecastSpec()), "with forecast"),
        "swaps take 2 s": pool(trace, replace(base, swap_ram_s=2.0, swap_disk_s=4.0), "swaps of 2 to 4 s"),
        "zygote boots": pool(
            trace, replace(base, boot_s=7.5, keep=replace(base.keep, boot_s=7.5)), "zygote boots of 7.5 s"
        ),
        **{
            f"{n} architectures": pool(dealt(trace, n), base, f"{n} architectures, {len(trace.endpoints) // n} each")
            for n in (1, 20, 50, 100)
            if n < len(trace.endpoints)
        },
        "nothing shared": unshared,
    }
    equal = {name: at_equal_slots(curve, knative.slot_hours) for name, curve in variants.items()}
    console.print(table("at Knative's slot-seconds", [knative, *equal.values()]))
    same = equal["Pilotlight"]
    for name in ("Pilotlight", "nothing shared"):
        ratio = knative.cold_rate / max(equal[name].cold_rate, 1e-9)
        console.print(f"{name}: cold starts at equal slot-seconds are 1/{ratio:.1f} of Knative's (goal: 1/2)")
    elapsed_s = time.perf_counter() - began_s
    console.print(f"{elapsed_s:.0f} s for all simulations")

    OUT.mkdir(parents=True, exist_ok=True)
    curves = {
        "fixed keep-alive": keeps,
        "Pilotlight": swept,
        "Pilotlight, nothing shared": [unshared(p) for p in PRICES],
    }
    picture(curves, [knative, same], OUT / "policy.png", title)
    raw = {
        "trace": title,
        "boot_s": BOOT_S,
        "cold_s": COLD_S,
        "knative": [asdict(knative), asdict(window_only)],
        "curves": {name: [asdict(point) for point in points] for name, points in curves.items()},
        "equal_slot_seconds": {name: asdict(point) for name, point in equal.items()},
    }
    (OUT / "policy.json").write_text(json.dumps(raw, indent=1))
    console.print(f"picture: {OUT / 'policy.png'}")


if __name__ == "__main__":
    main()
