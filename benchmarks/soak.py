"""Ten minutes of mixed traffic over five endpoints, with scale to zero in between and one revision change.

    python benchmarks/soak.py [--minutes 10] [--no-pool]

A tenant asks the front door with its key. Three endpoints are the gateway's own (the short way), two always go by their
pods; all lease from the warm pool, which is `pilotlight up`'s default, and the run says so. --no-pool: each pod starts
its own engine, and everything goes by pods. Passes when no request failed, no process is left, no lease is held at
zero, and file descriptors and memory of platform, pool and gateway did not grow. Prints a table, writes a plot of
replicas, memory and descriptors over time under benchmarks/out, exits 1 when it did not pass.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import yaml
from processes import free_port
from rich.console import Console
from rich.table import Table
from soak_readings import Reading, growth, plot, problems, watch
from soak_traffic import COLD_S, Door, Tally, clients

from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.errors import PlatformError
from pilotlight_local.state_dir import StateDir

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
PILOTLIGHT = str(Path(sys.executable).with_name("pilotlight"))
FRONTS = {"soak-a": "auto", "soak-b": "pods", "soak-c": "auto", "soak-d": "pods", "soak-e": "shared"}
TENANT = "default"
AUTOSCALER = ["--autoscaler", "scale-to-zero-grace-period=8s"]
WINDOW = "10s"
START_DEADLINE_S = 60.0
AT_ZERO_DEADLINE_S = 90.0
console = Console(width=130)


def specs(folder: Path, model: str) -> Path:
    """The quickstart five times over, each under its own name, with a short window."""
    documents = []
    for name, front in FRONTS.items():
        document = yaml.safe_load((ROOT / "inferenceservices" / "quickstart.yaml").read_text())
        document["metadata"]["name"] = name
        document["metadata"]["annotations"] |= {
            "autoscaling.knative.dev/window": WINDOW,
            "pilotlight.dev/front": front,
        }
        for role in ("predictor", "transformer"):
            container = document["spec"][role]["containers"][0]
            container["args"] = [arg.replace("=quickstart", f"={name}") for arg in container["args"]]
        predictor = document["spec"]["predictor"]["containers"][0]
        if name == next(iter(FRONTS)):
            predictor["args"] = [arg.replace("bundled://demo-awq", model) for arg in predictor["args"]]
        documents.append(document)
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def key_of_a_tenant(state_dir: Path) -> str:
    """Closes the door to everybody without one."""

    def pilotlight(*words: str) -> str:
        argv = [PILOTLIGHT, *words, TENANT, "--state-dir", str(state_dir)]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    pilotlight("tenant", "create")
    return pilotlight("key", "create")


def until_known(door: Door) -> None:
    """A key is good within a second everywhere, not at once."""
    asked = urllib.request.Request(f"{door.url}/v1/models", headers={"x-api-key": door.key})
    deadline_s = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=5):
                return
        except urllib.error.HTTPError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


async def traffic(
    args: argparse.Namespace, control: ControlClient, platform: psutil.Process, door: Door, folder: Path
) -> tuple[Tally, list[Reading]]:
    tally, readings = Tally(), list[Reading]()
    watcher = asyncio.create_task(watch(control, platform, readings))
    asking = asyncio.create_task(
        clients(door, list(FRONTS), time.monotonic() + 60 * args.minutes, tally, str(args.seed))
    )
    await asyncio.sleep(30 * args.minutes)
    console.print(f"{time.strftime('%H:%M:%S')} a new revision of {next(iter(FRONTS))}'s predictor, under traffic")
    await asyncio.to_thread(control.apply, [str(specs(folder, "bundled://demo-bf16"))])
    while not asking.done():
        await asyncio.wait({asking}, timeout=30)
        last = readings[-1]
        held = ", ".join(f"{whose} {each.rss_bytes / 1e6:.0f} MB, {each.fds} fds" for whose, each in last.held.items())
        console.print(
            f"{last.at_s:5.0f} s  {tally.requests} requests, {len(tally.failures)} failed, {last.processes} processes, "
            f"{last.leases} leases; {held}"
        )
    asking.result()
    deadline_s = time.monotonic() + AT_ZERO_DEADLINE_S
    while (readings[-1].processes or readings[-1].leases) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(1)
    await asyncio.sleep(4)
    watcher.cancel()
    return tally, readings


def told(tally: Tally, readings: list[Reading], minutes: float) -> None:
    states = {reading.pool for reading in readings}
    pool = "off" if states == {"off"} else f"on ({readings[-1].pool})"
    title = f"soak: {minutes:g} minutes, {len(FRONTS)} endpoints, warm pool {pool}"
    table = Table(title=f"{title}, {time.strftime('%Y-%m-%d')}")
    for column in ("request", "count", "p50 s", "p99 s", "max s"):
        table.add_column(column, justify="right")
    for kind, latencies in sorted(tally.latencies_s.items()):
        ordered = sorted(latencies)
        p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        table.add_row(kind, str(len(ordered)), f"{statistics.median(ordered):.2f}", f"{p99:.1f}", f"{ordered[-1]:.1f}")
    console.print(table)
    ways = ", ".join(f"{count} by the {way} way" for way, count in sorted(tally.ways.items()))
    console.print(f"{len(tally.failures)} failed, {tally.cold} waited over {COLD_S:.0f} s for a cold endpoint; {ways}")
    for each in growth(readings):
        (rss, later_rss), (fds, later_fds) = each.rss_bytes, each.fds
        console.print(
            f"{each.whose}: {rss / 1e6:.0f} → {later_rss / 1e6:.0f} MB ({each.most_rss_bytes / 1e6:.0f} at most), "
            f"{fds:.0f} → {later_fds:.0f} descriptors"
        )
    for failure in tally.failures[:10]:
        console.print(failure, markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", default="7")
    parser.add_argument("--no-pool", action="store_true", help="each pod starts an engine of its own")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-soak-") as work:
        folder, ingress, front = Path(work), free_port(), free_port()
        argv = [PILOTLIGHT, "up", str(specs(folder, "bundled://demo-awq")), f"--gateway-port={front}", *AUTOSCALER]
        argv += ["--port", str(ingress), "--state-dir", str(folder / "state"), *(["--no-pool"] if args.no_pool else [])]
        with (OUT / "soak-up.log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        platform, control = psutil.Process(process.pid), ControlClient(StateDir(folder / "state"))
        try:
            wait_for(control, process, f"http://127.0.0.1:{front}/readyz")
            door = Door(f"http://127.0.0.1:{front}", key_of_a_tenant(folder / "state"))
            until_known(door)
            tally, readings = asyncio.run(traffic(args, control, platform, door, folder))
        finally:
            children = platform.children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(60)
        left = [child.pid for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    told(tally, readings, args.minutes)
    plot(readings, list(FRONTS), OUT / "soak.png")
    console.print("picture: benchmarks/out/soak.png")
    wrong = [f"{len(tally.failures)} requests failed"] if tally.failures else []
    wrong += [f"processes left behind: {left}"] if left else []
    wrong += problems(readings)
    for problem in wrong:
        console.print(f"[red]{problem}[/]")
    sys.exit(1 if wrong else 0)


def wait_for(control: ControlClient, process: subprocess.Popen[bytes], front: str) -> None:
    deadline_s = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            control.status()
            with urllib.request.urlopen(front, timeout=5):
                return
        except (PlatformError, urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit("pilotlight up did not start; see benchmarks/out/soak-up.log") from None
            time.sleep(0.1)


if __name__ == "__main__":
    main()
