"""What the processes of a platform hold while the soak's traffic goes on, and whether it grew."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pilotlight_local.cli.control_client import ControlClient

RSS_GROWTH_LIMIT = 1.15
FD_GROWTH_LIMIT = 8
PERIOD_S = 2.0
PLATFORM, POOL, GATEWAY, WORKERS = "platform", "warm pool", "gateway", "text workers"
_MODULES = {POOL: "pilotlight_pool", GATEWAY: "pilotlight_gateway"}


@dataclass(frozen=True)
class Footprint:
    """Of one process; of several, their sum, with the first one's pid."""

    pid: int
    rss_bytes: int
    fds: int


@dataclass(frozen=True)
class Reading:
    """`processes`: of pods; the services of the platform stay, and what they started. `held`: by whom it is; who is not
    there is not in it. `pool`: its state, `off` without one."""

    at_s: float
    processes: int
    ready: dict[str, int]
    pool: str
    leases: int
    held: dict[str, Footprint]


async def watch(control: ControlClient, platform: psutil.Process, readings: list[Reading]) -> None:
    """Until cancelled."""
    begun_s = time.monotonic()
    while True:
        status = await asyncio.to_thread(control.status)
        with contextlib.suppress(psutil.Error):
            readings.append(_reading(status, platform, time.monotonic() - begun_s))
        await asyncio.sleep(PERIOD_S)


def _reading(status: dict[str, Any], platform: psutil.Process, at_s: float) -> Reading:
    ready: dict[str, int] = {}
    for row in status["components"]:
        ready[row["endpoint"]] = ready.get(row["endpoint"], 0) + row["ready"]
    pool = status["pool"]
    below, held = platform.children(recursive=True), {PLATFORM: _footprint([platform])}
    services = {name: service for name, module in _MODULES.items() if (service := _running(below, module)) is not None}
    family: set[int] = set()
    for name, service in services.items():
        started = service.children(recursive=True)
        above = [parent.pid for parent in service.parents() if platform in parent.parents()]
        family |= {service.pid, *above, *(each.pid for each in started)}
        held[name] = _footprint([service])
        if name == GATEWAY and started:
            held[WORKERS] = _footprint(started)
    waiting = sum(lease["state"] in ("queued", "placing", "active", "idle") for lease in pool["leases"])
    pods = [child for child in below if child.pid not in family]
    return Reading(at_s, len(pods), ready, pool["state"], waiting, held)


def _running(processes: Sequence[psutil.Process], module: str) -> psutil.Process | None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if module in command and "-m" in command and command[0] == sys.executable:
                return process
    return None


def _footprint(processes: Sequence[psutil.Process]) -> Footprint:
    """Those that end meanwhile hold nothing."""
    rss_bytes = fds = 0
    for process in processes:
        with contextlib.suppress(psutil.Error), process.oneshot():
            rss_bytes += process.memory_info().rss
            fds += process.num_fds()
    return Footprint(processes[0].pid, rss_bytes, fds)


@dataclass(frozen=True)
class Growth:
    """Medians of the second quarter of the time, since the first warms up, and of the last."""

    whose: str
    rss_bytes: tuple[float, float]
    fds: tuple[float, float]
    most_rss_bytes: int

    @property
    def problems(self) -> list[str]:
        (rss, later_rss), (fds, later_fds) = self.rss_bytes, self.fds
        found = []
        if later_rss > RSS_GROWTH_LIMIT * rss:
            found.append(f"memory of the {self.whose} grew from {rss / 1e6:.0f} to {later_rss / 1e6:.0f} MB")
        if later_fds > fds + FD_GROWTH_LIMIT:
            found.append(f"descriptors of the {self.whose} grew from {fds:.0f} to {later_fds:.0f}")
        return found


def growth(readings: Sequence[Reading]) -> list[Growth]:
    used = [reading for reading in readings if reading.at_s > readings[-1].at_s / 4]
    quarter = max(1, len(used) // 3)
    found = []
    for whose in (PLATFORM, POOL, GATEWAY, WORKERS):
        early, late = (
            [each.held[whose] for each in part if whose in each.held] for part in (used[:quarter], used[-quarter:])
        )
        if early and late:
            rss_bytes = [statistics.median(each.rss_bytes for each in part) for part in (early, late)]
            fds = [statistics.median(each.fds for each in part) for part in (early, late)]
            most = max(each.held[whose].rss_bytes for each in readings if whose in each.held)
            found.append(Growth(whose, (rss_bytes[0], rss_bytes[1]), (fds[0], fds[1]), most))
    return found


def problems(readings: Sequence[Reading]) -> list[str]:
    """What grew, restarted, or is left once the endpoints should be at zero."""
    last, found = readings[-1], [problem for grown in growth(readings) for problem in grown.problems]
    pids = {whose: {each.held[whose].pid for each in readings if whose in each.held} for whose in (POOL, GATEWAY)}
    found += [f"the {whose} ended and was started again" for whose, those in pids.items() if len(those) > 1]
    if last.processes:
        found.append(f"{last.processes} processes still run after the endpoints should be at zero")
    if last.leases:
        found.append(f"{last.leases} leases are held after the endpoints should be at zero")
    return found


def plot(readings: Sequence[Reading], names: Sequence[str], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(10, 8), sharex=True, layout="constrained")
    for name in names:
        times = [reading.at_s for reading in readings]
        top.step(times, [reading.ready.get(name, 0) for reading in readings], where="post", label=name)
    top.set_ylabel("ready pods")
    top.set_ylim(top=2.6)
    top.legend(ncols=5, fontsize=8, loc="upper center")
    for whose in (PLATFORM, POOL, GATEWAY, WORKERS):
        there = [reading for reading in readings if whose in reading.held]
        times = [reading.at_s for reading in there]
        middle.plot(times, [reading.held[whose].rss_bytes / 1e6 for reading in there], label=whose)
        bottom.plot(times, [reading.held[whose].fds for reading in there], label=whose)
    middle.set_ylabel("RSS, MB")
    bottom.set_ylabel("file descriptors")
    bottom.set_xlabel("seconds")
    for axes in (middle, bottom):
        axes.set_ylim(bottom=0)
        axes.legend(ncols=4, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)
