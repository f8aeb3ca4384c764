"""Keeps what a process knows of tenants as new as the store: asks it four times a second, in a thread of
its own: what waits for the loop's threads (a packed body of somebody without a key, say) must not make it late.

So a key that is revoked anywhere is refused everywhere within a second. Where the store has not answered for that long,
nobody knows whether a key is still good: who shows one waits for the store's next answer, for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.known_tenants import KnownTenants
from pilotlight_gateway.tenants.tenant_records import TenantRecord
from pilotlight_gateway.tenants.tenant_store import TenantStore
from pilotlight_protocol.errors import Unavailable

PERIOD_S = 0.25
STALE_AFTER_S = 1.0
WAIT_S = 3.0

_log = logging.getLogger("pilotlight.gateway.tenants")


class TenantWatch:
    """Between `start` and `close`. `wall_s`: what records are dated by."""

    def __init__(
        self,
        store: TenantStore,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tenants")
        self._known = KnownTenants()
        self._now_s = now_s
        self._wall_s = wall_s
        self._read_s = now_s()
        self._asking = asyncio.Lock()
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises Unavailable where the store does not answer."""
        await self.refresh()
        self._task = asyncio.create_task(self._run())

    async def refresh(self) -> None:
        """Know all that is in the store by now."""
        async with self._asking:
            asked_s = self._now_s()
            loop = asyncio.get_running_loop()
            changes = await loop.run_in_executor(self._thread, self._store.changes, self._known.upto)
            if changes is not None:
                self._known.apply(changes)
            self._read_s = asked_s
            self._answered.set()
            self._answered = asyncio.Event()

    async def until_fresh(self) -> None:
        """Raises Unavailable where what is known stays too old."""
        if self._is_fresh():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not self._is_fresh():
                    await self._answered.wait()
        self._check_fresh()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def ever_had_a_tenant(self) -> bool:
        self._check_fresh()
        return self._known.ever_had_one

    def caller_of(self, key: str) -> Caller:
        """Raises Unauthorized, or Unavailable where what is known is too old."""
        self._check_fresh()
        return self._known.caller_of(key, self._wall_s())

    def caller_again(self, tenant: str, key_id: str) -> Caller:
        """Of a key that was good when something was asked for that is done now. Raises as `caller_of`."""
        self._check_fresh()
        return self._known.caller_again(tenant, key_id, self._wall_s())

    def tenant(self, name: str) -> TenantRecord | None:
        self._check_fresh()
        return self._known.tenant(name)

    def limits_of(self, tenant: str) -> LimitTerms:
        return self._known.limits_of(tenant)

    def _is_fresh(self) -> bool:
        return self._now_s() - self._read_s <= STALE_AFTER_S

    def _check_fresh(self) -> None:
        if not self._is_fresh():
            raise Unavailable("whose keys are valid is not known at the moment; try again")

    async def _run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.refresh()
                failing = False
            except Unavailable as error:
                if not failing:
                    _log.error("%s (%r)", error.message, error.__cause__)
                failing = True
