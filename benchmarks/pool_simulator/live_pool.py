"""The same trace on a live pool in real time: its service as a process, over fake engines that take as long as told.

Holders are those of `warm_pool`: an endpoint asks for a lease when it has work and none, serves any number of requests
with it at once, and gives it back after `lease_idle_s` without work; a request whose engine is taken away ends there.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fakes"))

from warmup_pool import FAKE_POOL, Holder, Pool, fake_model

from pilotlight_protocol import engine_frames as f
from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Trace
from pool_simulator.warm_pool import PoolSpec

_STEP_S = 0.02
_EXPIRES_S = 600


async def replay(trace: Trace, spec: PoolSpec, folder: Path) -> Outcome:
    """`folder`: for models and sockets. Takes as long as the trace does."""
    outcome = Outcome("live pool", len(trace.arrivals_s))
    models = list(_models(trace, spec, folder))
    slots = [word for number in range(spec.slots) for word in ("--slot", f"cpu:{number}=4GiB")]
    keep = ("--keep_alive_price_s", str(spec.keep.price_slot_s), "--uncontested_keep_s", str(spec.keep.uncontested_s))
    flags = ("--lease_expires_s", str(_EXPIRES_S), *keep, *slots)
    async with Pool(folder, str(FAKE_POOL), *flags) as pool:
        holders = [
            _LiveHolder(pool, model, endpoint.tenant, spec.lease_idle_s)
            for model, endpoint in zip(models, trace.endpoints, strict=True)
        ]
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            for at_s, endpoint, duration_s in zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True):
                await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
                requests.create_task(holders[endpoint].request(duration_s, outcome))
        outcome.boots = len(re.findall(r"the engine of \S+ is pid", pool.log()))
    return outcome


def _models(trace: Trace, spec: PoolSpec, folder: Path) -> Iterator[Path]:
    """The shape of its weights is a fake model's architecture."""
    shapes = {name: 8 + n for n, name in enumerate(sorted({each.fingerprint for each in trace.endpoints}))}
    for number, endpoint in enumerate(trace.endpoints):
        yield fake_model(
            folder / "models" / f"m{number}", number, hidden_size=shapes[endpoint.fingerprint], step_s=_STEP_S,
            boot_s=spec.costs.fork_s, swap_s=spec.costs.swap_ram_s,
        )  # fmt: skip


class _LiveHolder:
    def __init__(self, pool: Pool, model: Path, tenant: str, idle_s: float) -> None:
        self._pool = pool
        self._model = model
        self._tenant = tenant
        self._idle_s = idle_s
        self._lease: _Lease | None = None
        self._leasing: asyncio.Task[_Lease] | None = None

    async def request(self, duration_s: float, outcome: Outcome) -> None:
        began_s = time.monotonic()
        lease = self._lease
        if lease is None or not lease.is_open:
            if self._leasing is None:
                self._leasing = asyncio.create_task(self._take())
            lease = await asyncio.shield(self._leasing)
            outcome.waits_s.append(time.monotonic() - began_s)
            outcome.boot_waits += lease.path in {"fork", "boot"}
            if lease.path == "swap":
                outcome.swap_waits_s.append(outcome.waits_s[-1])
        await lease.work(duration_s)
        if lease.is_open and not lease.works:
            await asyncio.sleep(self._idle_s)
            if lease is self._lease and lease.is_open and lease.idle_for_s >= self._idle_s:
                self._lease = None
                await lease.give_back()

    async def _take(self) -> _Lease:
        try:
            if self._lease is not None:
                await self._lease.give_back()
            granted = await self._pool.lease(self._model, name=self._model.name, tenant=self._tenant, wait_s=60.0)
            self._lease = await _Lease.open(self._pool, granted)
            return self._lease
        finally:
            self._leasing = None


class _Lease:
    """Any number of streams on the one connection of a lease."""

    def __init__(self, pool: Pool, granted: dict[str, Any], holder: Holder, stack: AsyncExitStack) -> None:
        self.path = str(granted["path"])
        self.is_open = True
        self.works = 0
        self._pool = pool
        self._granted = granted
        self._holder = holder
        self._stack = stack
        self._numbers = itertools.count(1)
        self._ends: dict[int, asyncio.Event] = {}
        self._idle_since_s = time.monotonic()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, pool: Pool, granted: dict[str, Any]) -> _Lease:
        stack = AsyncExitStack()
        return cls(pool, granted, await stack.enter_async_context(Holder.open(granted)), stack)

    @property
    def idle_for_s(self) -> float:
        return 0.0 if self.works else time.monotonic() - self._idle_since_s

    async def work(self, duration_s: float) -> None:
        number = next(self._numbers)
        end = self._ends[number] = asyncio.Event()
        self.works += 1
        self._holder.ask(max(1, round(duration_s / _STEP_S)), stream=number)
        await end.wait()
        self.works -= 1
        self._idle_since_s = time.monotonic()

    async def give_back(self) -> None:
        self.is_open = False
        self._reading.cancel()
        await self._pool.call("DELETE", f"/v1/leases/{self._granted['lease_id']}")
        await self._stack.aclose()

    async def _read(self) -> None:
        try:
            while True:
                try:
                    frame = await self._holder.frame()
                except TimeoutError:
                    continue
                if isinstance(frame, f.Step):
                    for number, delta in frame.deltas:
                        if delta.finish_reason is not None:
                            self._ends[number].set()
        except (EOFError, OSError):
            self.is_open = False
            for end in self._ends.values():
                end.set()
