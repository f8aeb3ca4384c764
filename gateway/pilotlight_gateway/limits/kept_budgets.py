"""Keeps budgets over a restart: what tenants took is written behind once a second, and known again at the start.

A process that is killed loses what it took within its last `WRITE_S`; what it had reserved until then stays taken. Must
not: decide anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pilotlight_gateway.limits.calendar_periods import day_of
from pilotlight_protocol.errors import Unavailable

WRITE_S = 1.0
KEPT_DAYS = 62
"""This month and the one before it."""
_log = logging.getLogger("pilotlight.gateway.limits")

TenantDay = tuple[str, int]


class BudgetStore(Protocol):
    """Blocking, from any thread. Raises Unavailable where it fails."""

    def since(self, day: int) -> dict[TenantDay, int]:
        """Tokens by tenant and day."""
        ...

    def add(self, tokens: Mapping[TenantDay, int], forget_before: int) -> None:
        """All of it, or nothing. Days before `forget_before` are dropped."""
        ...

    def close(self) -> None: ...


class KeptBudgets:
    """Between `start` and `close`."""

    def __init__(self, store: BudgetStore, now_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now_s = now_s
        self._unwritten: dict[TenantDay, int] = {}
        self._over = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> Mapping[TenantDay, int]:
        """What was taken until now. Raises Unavailable where the store does not answer."""
        known = await asyncio.to_thread(self._store.since, self._first_day())
        self._writing = asyncio.create_task(self._run(), name="budgets")
        return known

    def add(self, tenant: str, day: int, tokens: int) -> None:
        key = tenant, day
        self._unwritten[key] = self._unwritten.get(key, 0) + tokens

    async def close(self) -> None:
        """What was taken until now is written."""
        self._over.set()
        if self._writing is not None:
            await self._writing
        await self._write()
        self._store.close()

    async def _run(self) -> None:
        # Never cancelled: a thread that writes cannot be stopped, and what it wrote must be known.
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITE_S):
                    await self._over.wait()
            await self._write()

    async def _write(self) -> None:
        if not self._unwritten:
            return
        taken, self._unwritten = self._unwritten, {}
        try:
            await asyncio.to_thread(self._store.add, taken, self._first_day())
            self._failing = False
        except Unavailable as error:
            for (tenant, day), tokens in taken.items():
                self.add(tenant, day, tokens)
            if not self._failing:
                _log.error("%s (%r)", error.message, error.__cause__)
            self._failing = True

    def _first_day(self) -> int:
        return day_of(self._now_s()) - KEPT_DAYS
