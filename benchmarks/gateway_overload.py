"""Five times what an endpoint can answer: what is still delivered, who waits, and what who is sent away is told.

    python benchmarks/gateway_overload.py [--seconds 300] [--times 5]

A canned backend streams in so many slots and no more, as an engine whose batch is full. Requests of twelve tenants in
three classes come at random, at a rate that nobody slows down. Peak is what as many clients as there are slots get
done, one request after another; unloaded is high priority alone. One in fifty low requests is patient: sent away, it
comes back after `Retry-After` until it is answered. The gateway has one core, backend and load the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
from gateway_peers import ROOT
from overload_picture import draw
from processes import cpu_seconds, free_port, server
from rich.console import Console
from rich.table import Table
from stream_load import TimedStream, request_bytes

from gateway import LOGS, on_core
from pilotlight_gateway.commands import random_key
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress, RequestBounds

SLOTS, FIRST_MS, INTERVAL_MS = 64, 150.0, 20.0
TENANTS = 12
SHARES = {"high": 0.02, "normal": 0.38, "low": 0.6}
PATIENT = 0.02
FEWEST_TOKENS, MOST_TOKENS = 20, 60
LONGEST_S = 180.0
TELL_S = 15.0
_WAITED = re.compile(rb"\bturn;dur=([0-9.]+)")
PICTURE = ROOT / "benchmarks" / "out" / "overload.png"


@dataclass(frozen=True)
class Asked:
    """Times since the run began. `first_s`: to the first token; `waited_s` of that for its turn, as the gateway says.
    Of one that was sent away both are 0. `tries`: all of them."""

    priority: str
    begun_s: float
    status: int
    first_s: float
    waited_s: float
    end_s: float
    tokens: int
    tries: int


class Client:
    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self._url, self._keys = url, keys
        self._chance = random.Random(11)
        self.begun_s = time.perf_counter()
        self.asked: list[Asked] = []
        self.running = 0
        self.untold = 0
        """Those sent away without a Retry-After."""
        self.high_away: list[bytes] = []

    async def ask(self, priority: str, patient: bool = False) -> None:
        tokens = self._chance.randint(FEWEST_TOKENS, MOST_TOKENS)
        key, begun_s, tries = self._chance.choice(self._keys), self.now_s(), 0
        self.running += 1
        while True:
            tries += 1
            status, first_s, told_s = await self._once(priority, key, tokens)
            if status == 200 or not patient:
                break
            await asyncio.sleep(told_s)
        self.running -= 1
        got, waited_s = (tokens, told_s) if status == 200 else (0, 0.0)
        self.asked.append(Asked(priority, begun_s, status, first_s, waited_s, self.now_s(), got, tries))

    def now_s(self) -> float:
        return time.perf_counter() - self.begun_s

    async def _once(self, priority: str, key: str, tokens: int) -> tuple[int, float, float]:
        """Status, seconds to the first token, and how long it waited for its turn or when it is to come back."""
        body: dict[str, object] = {"model": "bench/demo", "messages": [], "stream": True, "max_tokens": tokens}
        headers = {"authorization": f"Bearer {key}", "x-pilotlight-priority": priority}
        host, port, raw = request_bytes(self._url, body, headers)
        transport, stream = await asyncio.get_running_loop().create_connection(lambda: TimedStream(raw), host, port)
        try:
            await asyncio.wait_for(stream.done, LONGEST_S)
        finally:
            transport.abort()
        head, _, rest = bytes(stream.body).partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status == 200:
            if rest.count(b'"content"') != tokens:
                raise RuntimeError(f"{rest.count(b'content')} tokens instead of {tokens}: {rest[-300:]!r}")
            waited = _WAITED.search(head)
            return status, stream.arrivals[0] - stream.started, 0.0 if waited is None else float(waited[1]) / 1000
        told = head.lower().partition(b"\r\nretry-after: ")[2].partition(b"\r\n")[0]
        self.untold += not told
        if priority == "high":
            self.high_away.append(rest[-300:])
        return status, 0.0, float(told or 1)

    async def tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            counts = dict(Counter(each.status for each in self.asked))
            print(f"{self.now_s():5.0f} s: {self.running} requests run or wait, {counts}", flush=True)

    async def at_random(self, per_s: float, seconds: float, pick: Callable[[], tuple[str, bool]]) -> None:
        """Requests at that rate, however long they take; returns when all of them have ended."""
        async with asyncio.TaskGroup() as group:
            ends_s = following_s = self.now_s()
            ends_s += seconds
            while (following_s := following_s + self._chance.expovariate(per_s)) < ends_s:
                await asyncio.sleep(following_s - self.now_s())
                group.create_task(self.ask(*pick()))

    async def one_after_another(self, clients: int, seconds: float) -> None:
        ends_s = self.now_s() + seconds

        async def client() -> None:
            while self.now_s() < ends_s:
                await self.ask("normal")

        await asyncio.gather(*(client() for _ in range(clients)))


def tenants(folder: Path) -> list[str]:
    """Their keys. Each may use the endpoint, with any priority."""
    store, keys = SqliteTenants(folder / FILE_NAME), []
    for number in range(TENANTS):
        name, key = f"tenant-{number}", random_key()
        settings = TenantSettings(priority="high", namespaces=("bench",))
        store.change(name, tenant_orders.create_tenant(name, settings, time.time()))
        store.change(name, tenant_orders.create_key(name, key, time.time()))
        keys.append(key.shown)
    store.close()
    return keys


def gateway_argv(folder: Path, port: int, backend: int, slots: int) -> list[str]:
    address = PodsAddress(f"http://127.0.0.1:{backend}", "demo.bench.localhost")
    bounds = RequestBounds(max_batch=slots)
    entry = EndpointEntry("bench", "demo", ("demo",), "d", address, pods_ready=1, front="pods", bounds=bounds)
    (folder / "endpoints.json").write_bytes(msgspec.json.encode(DirectoryAnswer("bench", 1, True, (entry,))))
    argv = [sys.executable, "-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={port}", "--log_level=WARNING"]
    return [*argv, f"--endpoints={folder / 'endpoints.json'}", f"--state_dir={folder}"]


def delivered_per_s(asked: Sequence[Asked], since_s: float, until_s: float) -> list[float]:
    """Tokens of whole answers, spread over the seconds that each took from its first one."""
    seconds = [0.0] * int(until_s - since_s)
    for each in asked:
        begun_s = each.end_s - max(0.001, each.tokens * INTERVAL_MS / 1000)
        rate = each.tokens / (each.end_s - begun_s)
        for second in range(max(0, int(begun_s - since_s)), min(len(seconds), int(each.end_s - since_s) + 1)):
            inside = min(each.end_s, since_s + second + 1) - max(begun_s, since_s + second)
            seconds[second] += rate * max(0.0, inside)
    return seconds


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def phase(url: str, keys: Sequence[str], run: Callable[[Client], Awaitable[None]]) -> Client:
    client = Client(url, keys)
    telling = asyncio.create_task(client.tell())
    try:
        await run(client)
    finally:
        telling.cancel()
    return client


def by_class(overloaded: Client, seconds: float) -> Table:
    shown = Table(title="by class, during the overload")
    for column in (
        "class",
        "asked",
        "answered",
        "sent away",
        "TTFT p50 s",
        "TTFT p99 s",
        "waited p99 s",
        "patient: answered, last s",
    ):
        shown.add_column(column, justify="right")
    for name in SHARES:
        mine = [each for each in overloaded.asked if each.priority == name and each.begun_s < seconds]
        answered = [each for each in mine if each.status == 200]
        patient = [each for each in answered if each.tries > 1]
        first = [each.first_s for each in answered]
        waited = [each.waited_s for each in answered]
        last = f"{len(patient)}, {max(each.end_s for each in patient):.0f}" if patient else "-"
        row = (str(len(mine)), str(len(answered)), str(len(mine) - len(answered)))
        shown.add_row(
            name,
            *row,
            f"{percentile(first, 0.5):.2f}",
            f"{percentile(first, 0.99):.2f}",
            f"{percentile(waited, 0.99):.2f}",
            last,
        )
    return shown


async def measured(url: str, keys: Sequence[str], gateway: psutil.Process, args: argparse.Namespace) -> int:
    slot_s = (FIRST_MS + INTERVAL_MS * (FEWEST_TOKENS + MOST_TOKENS) / 2) / 1000
    capacity_per_s = args.slots / slot_s
    chance = random.Random(5)

    def pick() -> tuple[str, bool]:
        priority = chance.choices(list(SHARES), list(SHARES.values()))[0]
        return priority, priority == "low" and chance.random() < PATIENT

    high_per_s = args.times * capacity_per_s * SHARES["high"]
    unloaded = await phase(
        url, keys, lambda client: client.at_random(high_per_s, args.unloaded, lambda: ("high", False))
    )
    peaked = await phase(url, keys, lambda client: client.one_after_another(args.slots, args.unloaded))
    print("unloaded and peak are measured; overload begins", flush=True)
    spent_s = cpu_seconds(gateway)
    over = await phase(url, keys, lambda client: client.at_random(args.times * capacity_per_s, args.seconds, pick))
    busy = (cpu_seconds(gateway) - spent_s) / over.now_s()
    settle_s = 3.0
    peak = statistics.fmean(delivered_per_s(peaked.asked, settle_s, args.unloaded - 1))
    delivered = delivered_per_s(over.asked, 0, args.seconds)
    goodput = statistics.fmean(delivered[int(settle_s) : -1])
    base = percentile([each.first_s for each in unloaded.asked], 0.99)
    high = [each for each in over.asked if each.priority == "high" and each.status == 200]
    p99 = percentile([each.first_s for each in high], 0.99)
    console = Console(width=140)
    console.print(by_class(over, args.seconds))
    statuses = Counter(each.status for each in over.asked)
    title = (
        f"{args.times:g} times capacity for {args.seconds:g} s: {goodput:,.0f} tokens/s, {goodput / peak:.1%} of peak; "
        f"high priority p99 {p99:.3f} s, {p99 / base:.2f} of unloaded"
    )
    console.print(f"the gateway's core was busy {busy:.0%} of the time")
    console.print(title, f"statuses {dict(statuses)}, {over.untold} without Retry-After")
    for body in over.high_away[:3]:
        print(body.decode("utf-8", "replace"))
    first = {
        name: [(each.begun_s, each.first_s) for each in over.asked if each.priority == name and each.status == 200]
        for name in SHARES
    }
    draw(delivered, peak, {name: points for name, points in first.items() if points}, base, title, PICTURE)
    print(f"picture: {PICTURE.relative_to(ROOT)}")
    met = goodput >= 0.95 * peak and p99 <= 1.5 * base and set(statuses) <= {200, 429, 503} and not over.untold
    print("met" if met else "NOT MET")
    return 0 if met else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--unloaded", type=float, default=20.0, help="seconds of each of the two phases before")
    parser.add_argument("--times", type=float, default=5.0)
    parser.add_argument("--slots", type=int, default=SLOTS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        backend, port, folder = free_port(), free_port(), Path(work)
        served = [sys.executable, str(ROOT / "benchmarks" / "canned_backend.py"), f"--port={backend}"]
        served += [f"--slots={args.slots}", f"--first_ms={FIRST_MS}", f"--interval_ms={INTERVAL_MS}"]
        stack.enter_context(
            server("overload-backend", served, f"http://127.0.0.1:{backend}/health", LOGS, program=on_core(1))
        )
        keys = tenants(folder)
        ready = f"http://127.0.0.1:{port}/readyz"
        argv = gateway_argv(folder, port, backend, args.slots)
        gateway = stack.enter_context(server("overload-gateway", argv, ready, LOGS, program=on_core(0)))
        return asyncio.run(measured(f"http://127.0.0.1:{port}/v1/chat/completions", keys, gateway, args))


if __name__ == "__main__":
    raise SystemExit(main())
