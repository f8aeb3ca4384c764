"""Whether the simulator of the policy benchmark is right: one short trace in virtual time and on a live pool.

    python benchmarks/policy_live.py [--seconds 120]

The live pool is the service as a process over fake engines, which boot and swap as long as they are told; the trace is
made up, twelve endpoints of three architectures on two slots, at a price of a cold start at which engines come and go.
Prints what both say of boots, swaps and waits.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pool_simulator import live_pool, warm_pool
from pool_simulator.costs import Costs
from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Endpoint, Trace, build

ENDPOINTS, ARCHITECTURES, SLOTS = 12, 3, 2
GAP_S, WORK_S = 30.0, 1.0
# Fake engines end at once, and their weights are nowhere but in RAM.
COSTS = Costs("live", 1.0, 1.0, 0.15, 0.15, 0.005, 0.02)


def short_trace(seconds: float) -> Trace:
    chance = random.Random(1)
    endpoints = [Endpoint(f"e{n}", f"tenant-{n}", f"f{n % ARCHITECTURES}") for n in range(ENDPOINTS)]
    requests: list[tuple[float, int, float]] = []
    for number in range(ENDPOINTS):
        at_s = chance.expovariate(1 / GAP_S)
        while at_s < seconds:
            requests.append((at_s, number, 0.1 + chance.expovariate(1 / WORK_S)))
            at_s += chance.expovariate(1 / GAP_S)
    return build(endpoints, requests)


def table(outcomes: list[Outcome]) -> Table:
    view = Table(title=f"{outcomes[0].requests} requests", title_justify="left")
    for name in ("", "waited", "for a boot", "for a swap", "> 1 s", "boots", "p50", "p90", "p99"):
        view.add_column(name, justify="right")
    for each in outcomes:
        view.add_row(
            each.policy, str(len(each.waits_s)), str(each.boot_waits), str(len(each.swap_waits_s)),
            f"{each.cold_rate:.1%}", str(each.boots), *(f"{each.percentile_s(p):.2f} s" for p in (50, 90, 99)),
        )  # fmt: skip
    return view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    trace = short_trace(options.seconds)
    keep = KeepAliveSpec(price_slot_s=15.0, uncontested_s=0.0)
    spec = warm_pool.PoolSpec(COSTS, slots=SLOTS, lease_idle_s=2.0, keep=keep)
    with tempfile.TemporaryDirectory() as folder:
        live = asyncio.run(live_pool.replay(trace, spec, Path(folder)))
    Console(width=120).print(table([warm_pool.simulate(trace, spec, "virtual time"), live]))


if __name__ == "__main__":
    main()
