"""The seam below the limits: where the accounts of tenants are kept. Beside it the one in this process's memory.

Must not: know requests, or what a tenant's limits are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pilotlight_gateway.limits.kept_budgets import KeptBudgets
from pilotlight_gateway.limits.limit_terms import UNLIMITED, Granted, LimitTerms, Refused
from pilotlight_gateway.limits.tenant_account import TenantAccount

KEEP_S = 7_200.0
"""Longer than any request may take."""


class Accounts(Protocol):
    async def reserve(self, tenant: str, terms: LimitTerms, reservation_id: str, tokens: int) -> Granted | Refused:
        """Raises Unavailable where nobody can tell whether there is room."""
        ...

    async def take_over(self, tenant: str, old_id: str, reservation_id: str, tokens: int) -> None:
        """Hold in place of `old_id`, whose process is gone, the same for what goes on: no more is taken by it."""
        ...

    def settle(self, tenant: str, reservation_id: str, tokens: int) -> None:
        """Never waits: what must be sent is sent by an owner of it."""
        ...

    async def close(self) -> None: ...


class MemoryAccounts:
    """Accounts of one process, between `start` and `close`. A request costs a few dictionary look-ups.

    `budgets`: where what was taken of them is kept over a restart.
    """

    def __init__(
        self,
        now_s: Callable[[], float] = time.time,
        keep_s: float = KEEP_S,
        budgets: KeptBudgets | None = None,
    ) -> None:
        self._now_s = now_s
        self._keep_s = keep_s
        self._budgets = budgets
        self._accounts: dict[str, TenantAccount] = {}

    async def start(self) -> None:
        """Raises Unavailable where the budgets cannot be read."""
        if self._budgets is not None:
            for (tenant, day), tokens in (await self._budgets.start()).items():
                self._of(tenant).book(day, tokens)

    async def reserve(self, tenant: str, terms: LimitTerms, reservation_id: str, tokens: int) -> Granted | Refused:
        return self._of(tenant).reserve(terms, reservation_id, tokens, self._now_s())

    async def take_over(self, tenant: str, old_id: str, reservation_id: str, tokens: int) -> None:
        self._of(tenant).reserve(UNLIMITED, reservation_id, tokens, self._now_s())

    def settle(self, tenant: str, reservation_id: str, tokens: int) -> None:
        self._of(tenant).settle(reservation_id, tokens, self._now_s())

    async def close(self) -> None:
        if self._budgets is not None:
            await self._budgets.close()

    def _of(self, tenant: str) -> TenantAccount:
        account = self._accounts.get(tenant)
        if account is None:
            took = None if self._budgets is None else partial(self._budgets.add, tenant)
            account = self._accounts[tenant] = TenantAccount(self._keep_s, took)
        return account
