"""Ten minutes of mixed traffic over five endpoints, with scale to zero in between and one revision change.

    python benchmarks/soak.py [--minutes 10] [--no-pool]

The pods lease from the warm pool, which is `pilotlight up`'s default, and the run says so; --no-pool: each starts its
own engine. Passes when no request failed, no process is left, no lease is held at zero, and file descriptors and memory
of platform and pool did not grow. Prints a table, writes a plot of replicas, memory and descriptors over time under
benchmarks/out, exits 1 when it did not pass.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml
from processes import free_port
from rich.console import Console
from rich.table import Table

from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.errors import PlatformError
from pilotlight_local.state_dir import StateDir

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
PILOTLIGHT = str(Path(sys.executable).with_name("pilotlight"))
ENDPOINTS = [f"soak-{letter}" for letter in "abcde"]
AUTOSCALER = ["--autoscaler", "scale-to-zero-grace-period=8s"]
WINDOW = "10s"
BURST_S = (10.0, 30.0)
IDLE_S = (25.0, 70.0)
ACTIVE_AT_ONCE = 2
REQUEST_DEADLINE_S = 240.0
AT_ZERO_DEADLINE_S = 90.0
COLD_S = 3.0
RSS_GROWTH_LIMIT = 1.15
FD_GROWTH_LIMIT = 8
console = Console(width=130)


@dataclass
class Reading:
    """`processes`: of pods; the pool's service, zygote and engines stay. `pool`: its state, `off` without one."""

    at_s: float
    rss_bytes: int
    fds: int
    processes: int
    ready: dict[str, int]
    pool: str
    leases: int = 0
    pool_pid: int = 0
    pool_rss_bytes: int = 0
    pool_fds: int = 0


@dataclass
class Tally:
    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    cold: int = 0


def specs(folder: Path, model: str) -> Path:
    """The quickstart five times over, each under its own name, with a short window."""
    documents = []
    for name in ENDPOINTS:
        document = yaml.safe_load((ROOT / "inferenceservices" / "quickstart.yaml").read_text())
        document["metadata"]["name"] = name
        document["metadata"]["annotations"]["autoscaling.knative.dev/window"] = WINDOW
        for role in ("predictor", "transformer"):
            container = document["spec"][role]["containers"][0]
            container["args"] = [arg.replace("=quickstart", f"={name}") for arg in container["args"]]
        predictor = document["spec"]["predictor"]["containers"][0]
        if name == ENDPOINTS[0]:
            predictor["args"] = [arg.replace("bundled://demo-awq", model) for arg in predictor["args"]]
        documents.append(document)
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


async def chat(session: aiohttp.ClientSession, base: str, name: str, dice: random.Random) -> None:
    stream = dice.random() < 0.5
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "What is scale to zero?"}],
        "max_tokens": dice.randrange(8, 64),
        "stream": stream,
    }
    async with session.post(f"{base}/openai/v1/chat/completions", json=body) as answer:
        text = await answer.text()
        if answer.status != 200 or (stream and not text.rstrip().endswith("data: [DONE]")):
            raise RuntimeError(f"chat: {answer.status} {text[-300:]}")


async def generate_stream(session: aiohttp.ClientSession, base: str, name: str, dice: random.Random) -> None:
    body = {"text_input": "Once upon a time", "parameters": {"max_tokens": dice.randrange(8, 64)}}
    async with session.post(f"{base}/v2/models/{name}/generate_stream", json=body) as answer:
        text = await answer.text()
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        if answer.status != 200 or not events or events[-1].get("finish_reason") is None:
            raise RuntimeError(f"generate_stream: {answer.status} {text[-300:]}")


async def infer(session: aiohttp.ClientSession, base: str, name: str, dice: random.Random) -> None:
    prompts = ["The little robot", "The sun"][: dice.randrange(1, 3)]
    body = {
        "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [len(prompts)], "data": prompts}],
        "parameters": {"max_tokens": 16},
    }
    async with session.post(f"{base}/v2/models/{name}/infer", json=body) as answer:
        value: dict[str, Any] = await answer.json()
        if answer.status != 200 or value["outputs"][0]["shape"] != [len(prompts)]:
            raise RuntimeError(f"infer: {answer.status} {value}")


async def disconnect(session: aiohttp.ClientSession, base: str, name: str, dice: random.Random) -> None:
    """A client that hangs up after the first bytes; nothing to check but that nothing else breaks."""
    body = {"text_input": "Once upon a time", "parameters": {"max_tokens": 400, "ignore_eos": True}}
    async with session.post(f"{base}/v2/models/{name}/generate_stream", json=body) as answer:
        await answer.content.readany()
        answer.close()


async def client(name: str, port: int, until_s: float, slots: asyncio.Semaphore, tally: Tally, seed: str) -> None:
    dice = random.Random(seed)
    base = f"http://127.0.0.1:{port}/serving/default/{name}"
    timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < until_s:
            async with slots:
                await one(session, base, name, dice, tally)
                burst_until = min(until_s, time.monotonic() + dice.uniform(*BURST_S))
                await asyncio.gather(*(burst(session, base, name, burst_until, dice, tally) for _ in range(3)))
            await asyncio.sleep(min(dice.uniform(*IDLE_S), max(0.0, until_s - time.monotonic())))


async def burst(
    session: aiohttp.ClientSession, base: str, name: str, until_s: float, dice: random.Random, tally: Tally
) -> None:
    while time.monotonic() < until_s:
        await one(session, base, name, dice, tally)
        await asyncio.sleep(dice.uniform(0.05, 0.6))


async def one(session: aiohttp.ClientSession, base: str, name: str, dice: random.Random, tally: Tally) -> None:
    kind = dice.choices([chat, generate_stream, infer, disconnect], [4, 3, 2, 1])[0]
    begun = time.monotonic()
    try:
        await kind(session, base, name, dice)
    except Exception as error:
        tally.failures.append(f"{time.strftime('%H:%M:%S')} {name}: {error!r}")
    took = time.monotonic() - begun
    tally.cold += took > COLD_S
    tally.latencies_s.setdefault(kind.__name__, []).append(took)


async def watch(control: ControlClient, process: psutil.Process, readings: list[Reading], begun_s: float) -> None:
    while True:
        status = await asyncio.to_thread(control.status)
        ready: dict[str, int] = {}
        for row in status["components"]:
            ready[row["endpoint"]] = ready.get(row["endpoint"], 0) + row["ready"]
        pool = status["pool"]
        held = sum(lease["state"] in ("queued", "placing", "active", "idle") for lease in pool["leases"])
        service, family = pool_family(process)
        pods = [child for child in process.children(recursive=True) if child.pid not in family]
        reading = Reading(
            time.monotonic() - begun_s, process.memory_info().rss, process.num_fds(), len(pods), ready, pool["state"],
            held,
        )  # fmt: skip
        if service is not None:
            with contextlib.suppress(psutil.Error):
                reading.pool_pid, reading.pool_rss_bytes = service.pid, service.memory_info().rss
                reading.pool_fds = service.num_fds()
        readings.append(reading)
        await asyncio.sleep(2)


def pool_family(platform: psutil.Process) -> tuple[psutil.Process | None, set[int]]:
    """The warm pool's service, and the pids of it and whatever it has started and was started by."""
    for child in platform.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = child.cmdline()
            if "pilotlight_pool" in command and "-m" in command and command[0] == sys.executable:
                above = [parent.pid for parent in child.parents() if platform in parent.parents()]
                return child, {child.pid, *above, *(each.pid for each in child.children(recursive=True))}
    return None, set()


async def traffic(
    args: argparse.Namespace, control: ControlClient, platform: psutil.Process, port: int, folder: Path
) -> tuple[Tally, list[Reading]]:
    tally, readings = Tally(), list[Reading]()
    begun_s = time.monotonic()
    until_s = begun_s + 60 * args.minutes
    watcher = asyncio.create_task(watch(control, platform, readings, begun_s))
    slots = asyncio.Semaphore(ACTIVE_AT_ONCE)
    clients = [
        asyncio.create_task(client(name, port, until_s, slots, tally, f"{args.seed}-{name}")) for name in ENDPOINTS
    ]
    await asyncio.sleep(30 * args.minutes)
    console.print(f"{time.strftime('%H:%M:%S')} a new revision of {ENDPOINTS[0]}'s predictor, under traffic")
    await asyncio.to_thread(control.apply, [str(specs(folder, "bundled://demo-bf16"))])
    while any(not task.done() for task in clients):
        await asyncio.wait(clients, timeout=30)
        requests = sum(map(len, tally.latencies_s.values()))
        last = readings[-1]
        console.print(
            f"{last.at_s:5.0f} s  {requests} requests, {len(tally.failures)} failed, {last.processes} processes, "
            f"{last.rss_bytes / 1e6:.0f} MB, {last.fds} fds; pool {last.pool}, {last.leases} leases, "
            f"{last.pool_rss_bytes / 1e6:.0f} MB, {last.pool_fds} fds"
        )
    await asyncio.gather(*clients)
    deadline_s = time.monotonic() + AT_ZERO_DEADLINE_S
    while (readings[-1].processes or readings[-1].leases) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(1)
    await asyncio.sleep(4)
    watcher.cancel()
    return tally, readings


def plot(readings: list[Reading], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, layout="constrained")
    times = [reading.at_s for reading in readings]
    for name in ENDPOINTS:
        top.step(times, [reading.ready.get(name, 0) for reading in readings], where="post", label=name)
    top.set_ylabel("ready pods")
    top.set_ylim(top=2.6)
    top.legend(ncols=5, fontsize=8, loc="upper center")
    bottom.plot(
        times, [reading.rss_bytes / 1e6 for reading in readings], color="#c0392b", label="RSS of pilotlight up, MB"
    )
    bottom.plot(times, [reading.fds for reading in readings], color="#2980b9", label="file descriptors")
    if readings[-1].pool_pid:
        pool_rss = [reading.pool_rss_bytes / 1e6 for reading in readings]
        bottom.plot(times, pool_rss, color="#e67e22", label="RSS of the warm pool's service, MB")
        bottom.plot(times, [reading.pool_fds for reading in readings], color="#16a085", label="its file descriptors")
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("seconds")
    bottom.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def judge(tally: Tally, readings: list[Reading], left: list[int]) -> list[str]:
    """Why the run did not pass; empty when it did. Growth: the last quarter against the second, the first warms up."""
    problems = [f"{len(tally.failures)} requests failed; first: {tally.failures[0]}"] if tally.failures else []
    if left:
        problems.append(f"processes left behind: {left}")
    if readings[-1].processes:
        problems.append(f"{readings[-1].processes} processes still run after the endpoints should be at zero")
    used = [reading for reading in readings if reading.at_s > readings[-1].at_s / 4]
    early, late = used[: len(used) // 4], used[-len(used) // 4 :]
    problems += grown("the platform", [[reading.rss_bytes for reading in part] for part in (early, late)])
    if readings[-1].fds > readings[0].fds + FD_GROWTH_LIMIT:
        problems.append(f"file descriptors grew from {readings[0].fds} to {readings[-1].fds}")
    if len({reading.pool_pid for reading in readings if reading.pool_pid}) > 1:
        problems.append("the warm pool ended and was started again")
    problems += grown("the pool", [[reading.pool_rss_bytes for reading in part] for part in (early, late)])
    pool_fds = [statistics.median(reading.pool_fds for reading in part) for part in (early, late)]
    if pool_fds[1] > pool_fds[0] + FD_GROWTH_LIMIT:
        problems.append(f"the pool's file descriptors grew from {pool_fds[0]:.0f} to {pool_fds[1]:.0f}")
    if readings[-1].leases:
        problems.append(f"{readings[-1].leases} leases are held after the endpoints should be at zero")
    return problems


def grown(whose: str, rss_bytes: list[list[int]]) -> list[str]:
    early, late = (statistics.median(part) for part in rss_bytes)
    if late <= RSS_GROWTH_LIMIT * early:
        return []
    return [f"memory of {whose} grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", default="7")
    parser.add_argument("--no-pool", action="store_true", help="each pod starts an engine of its own")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-soak-") as work:
        folder = Path(work)
        port = free_port()
        log = (OUT / "soak-up.log").open("wb")
        process = subprocess.Popen(
            [
                PILOTLIGHT,
                "up",
                "--no-gateway",
                str(specs(folder, "bundled://demo-awq")),
                "--port",
                str(port),
                *AUTOSCALER,
            ]
            + ["--state-dir", str(folder / "state"), *(["--no-pool"] if args.no_pool else [])],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        platform = psutil.Process(process.pid)
        control = ControlClient(StateDir(folder / "state"))
        wait_for(control, process)
        try:
            tally, readings = asyncio.run(traffic(args, control, platform, port, folder))
        finally:
            children = platform.children(recursive=True)
            control.down(60)
            process.wait(60)
        left = [child.pid for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    states = {reading.pool for reading in readings}
    pool = "off" if states == {"off"} else f"on ({readings[-1].pool})"
    title = f"soak: {args.minutes:g} minutes, {len(ENDPOINTS)} endpoints, warm pool {pool}"
    table = Table(title=f"{title}, {time.strftime('%Y-%m-%d')}")
    for column in ("request", "count", "p50 s", "p99 s", "max s"):
        table.add_column(column, justify="right")
    for kind, latencies in sorted(tally.latencies_s.items()):
        ordered = sorted(latencies)
        p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        table.add_row(kind, str(len(ordered)), f"{statistics.median(ordered):.2f}", f"{p99:.1f}", f"{ordered[-1]:.1f}")
    console.print(table)
    first, last = readings[0], readings[-1]
    console.print(
        f"{len(tally.failures)} failed, {tally.cold} waited over {COLD_S:.0f} s for a cold endpoint; platform memory "
        f"{first.rss_bytes / 1e6:.0f} → {last.rss_bytes / 1e6:.0f} MB, descriptors {first.fds} → {last.fds}"
    )
    if last.pool_pid:
        console.print(
            f"pool service: {max(reading.pool_rss_bytes for reading in readings) / 1e6:.0f} MB at most, "
            f"{last.pool_rss_bytes / 1e6:.0f} MB and {last.pool_fds} descriptors at the end"
        )
    plot(readings, OUT / "soak.png")
    console.print("picture: benchmarks/out/soak.png")
    problems = judge(tally, readings, left)
    for failure in tally.failures[:10]:
        console.print(failure, markup=False)
    for problem in problems:
        console.print(f"[red]{problem}[/]")
    sys.exit(1 if problems else 0)


def wait_for(control: ControlClient, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            control.status()
        except PlatformError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("pilotlight up did not start; see benchmarks/out/soak-up.log") from None
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
