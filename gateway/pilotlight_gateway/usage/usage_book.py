"""Counts what every request took, and writes it behind: to the store a moment later, all of it at a drain.

A crash loses what was counted in the last `FLUSH_S`. A store that fails loses nothing: it is written with the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.usage.prices import PriceTable, Rates
from pilotlight_gateway.usage.usage_rows import Amounts, Counted, Total, UsageKey, merge
from pilotlight_protocol.errors import Unavailable

FLUSH_S = 2.0
DAY_S = 86_400
_MOST_RATES = 65_536
_T = TypeVar("_T")

_log = logging.getLogger("pilotlight.gateway.usage")


class UsageStore(Protocol):
    """Blocking. Raises Unavailable where it fails; nothing of a call is written then."""

    def add(self, counted: Counted) -> None: ...

    def totals(
        self, columns: Sequence[str], first_day: int, last_day: int, tenant: str | None, endpoint: str | None, most: int
    ) -> list[Total]:
        """By the columns (`day`, `tenant`, `endpoint`, `model`), in their order; at most so many."""
        ...

    def close(self) -> None: ...


class UsageBook:
    """`prices`: as they are now."""

    def __init__(
        self, store: UsageStore, prices: Callable[[], PriceTable], wall_s: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        # Of its own: long questions must not take the threads that others wait for.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage")
        self._prices = prices
        self._wall_s = wall_s
        self._pending: Counted = {}
        self._rates: dict[tuple[str, str, str], Rates] = {}
        self._rates_of: PriceTable | None = None
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="usage")

    def ended(self, request: GatewayRequest, status: int) -> None:
        """A request has ended, in whatever way. What took nothing and came to nothing is not counted."""
        if request.place.method == "POST" and (status < 400 or request.usage.total):
            self._took(request)

    def _took(self, request: GatewayRequest) -> None:
        entry, model_name, usage = request.entry, request.model_name, request.usage
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        amounts = self._amounts(request.caller.tenant, f"{entry.namespace}/{entry.name}", model_name)
        amounts.requests += 1
        amounts.prompt_tokens += usage.prompt_tokens
        amounts.cached_tokens += cached
        amounts.output_tokens += usage.output_tokens
        rates = self._rates_for(entry.namespace, entry.name, model_name)
        amounts.cost += rates.of_tokens(usage.prompt_tokens, cached, usage.output_tokens)

    def held_slot(self, namespace: str, endpoint: str, model: str, slot_ms: int) -> None:
        """An endpoint's leases held a slot; its namespace pays."""
        amounts = self._amounts(namespace, f"{namespace}/{endpoint}", model)
        amounts.slot_ms += slot_ms
        amounts.cost += slot_ms * self._rates_for(namespace, endpoint, model).slot_ms

    async def flush(self) -> None:
        """Everything that was counted before is in the store. Raises Unavailable; it stays pending then."""
        writing = asyncio.create_task(self._write(), name="usage is written")
        self._writes.add(writing)
        writing.add_done_callback(self._written)
        # Whoever leaves while it is written takes nothing of it along.
        await asyncio.shield(writing)

    async def totals(
        self, columns: Sequence[str], first_day: int, last_day: int, tenant: str | None, endpoint: str | None, most: int
    ) -> list[Total]:
        """Of everything that was counted before. Raises Unavailable."""
        await self.flush()
        return await self._in_thread(lambda: self._store.totals(columns, first_day, last_day, tenant, endpoint, most))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _write(self) -> None:
        async with self._writing:
            batch, self._pending = self._pending, {}
            if not batch:
                return
            try:
                await self._in_thread(lambda: self._store.add(batch))
            except BaseException:
                merge(batch, self._pending)
                self._pending = batch
                raise

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writes.discard(writing)
        if not writing.cancelled():
            writing.exception()  # told to whoever has waited

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        try:
            await self.flush()
        except Unavailable as error:
            _log.error("the usage of the last moments is lost: %s (%r)", error.message, error.__cause__)
        await self._in_thread(self._store.close)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
                self._failing = False
            except Unavailable as error:
                if not self._failing:
                    _log.error("%s (%r); it is tried again", error.message, error.__cause__)
                self._failing = True

    def _amounts(self, tenant: str, endpoint: str, model: str) -> Amounts:
        key = UsageKey(int(self._wall_s()) // DAY_S, tenant, endpoint, model)
        amounts = self._pending.get(key)
        if amounts is None:
            amounts = self._pending[key] = Amounts()
        return amounts

    def _rates_for(self, namespace: str, endpoint: str, model: str) -> Rates:
        table = self._prices()
        if table is not self._rates_of or len(self._rates) > _MOST_RATES:
            self._rates, self._rates_of = {}, table
        key = (namespace, endpoint, model)
        rates = self._rates.get(key)
        if rates is None:
            rates = self._rates[key] = table.price_of(*key).rates
        return rates
