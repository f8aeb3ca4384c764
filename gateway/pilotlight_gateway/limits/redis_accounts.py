"""Accounts in Redis: all replicas see one, reserve in one round trip, and settle in the next one that there is.

A reservation's place is a lease: replicas renew those they hold, and what a dead one held is free after `PLACE_S`.
Where Redis is away, `without` decides: `refuse` lets nothing in, `local` counts in this process alone, with what it let
in of the last minute, and tells Redis when it is back. It must not know what a request is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from urllib.parse import quote

from pilotlight_gateway.limits.accounts import Accounts
from pilotlight_gateway.limits.held_reservations import (
    GIVEN_BACK,
    EndedReservation,
    HeldReservation,
    HeldReservations,
)
from pilotlight_gateway.limits.limit_terms import UNLIMITED, Granted, LimitTerms, Refused, Standing
from pilotlight_gateway.limits.redis_scripts import RENEW, RESERVE, SETTLE
from pilotlight_gateway.redis_calls import RedisAway, RedisCalls, ScriptCall
from pilotlight_gateway.settings import WithoutRedis

PLACE_S = 15
RENEW_S = 5.0
KEEP_S = 7_200
REMEMBER_S = 120
"""How long a settled reservation is remembered: longer than a call may be under way."""
MOST_TOKENS = 1 << 40
_BATCH = 100
_CLOSE_WITHIN_S = 2.0


class RedisAccounts:
    """Implements Accounts, between `start` and `close`. `process`: of no other replica, at no other time."""

    def __init__(
        self,
        link: RedisCalls,
        local: Accounts,
        without: WithoutRedis,
        process: str,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._local = local if without == "local" else None
        self._now_s = now_s
        self._held = HeldReservations(process)
        self._wake = asyncio.Event()
        self._renew_at_s = 0.0
        self._telling: asyncio.Task[None] | None = None
        link.on_return(self._renew_now)

    async def start(self) -> None:
        self._telling = asyncio.create_task(self._run(), name="accounts")

    async def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        with contextlib.suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._tell_ended()

    async def reserve(self, tenant: str, terms: LimitTerms, reservation_id: str, tokens: int) -> Granted | Refused:
        tokens = min(tokens, MOST_TOKENS)
        told = await self._asked(tenant, terms, reservation_id, tokens)
        if told is not None:
            if isinstance(told, Granted) and self._local is not None:
                await self._local.reserve(tenant, UNLIMITED, reservation_id, tokens)
            return told
        assert self._local is not None
        counted = await self._local.reserve(tenant, terms, reservation_id, tokens)
        if isinstance(counted, Refused):
            self._end(reservation_id, GIVEN_BACK)
        return counted

    async def take_over(self, tenant: str, old_id: str, reservation_id: str, tokens: int) -> None:
        """What the old one took is given back before the new one is told, whose owner's word then is the last."""
        tokens, second = min(tokens, MOST_TOKENS), int(self._now_s())
        if self._local is not None:
            await self._local.take_over(tenant, old_id, reservation_id, tokens)
        self._held.hold(old_id, HeldReservation(tenant, second, tokens, told=True))
        self._held.hold(reservation_id, HeldReservation(tenant, second, tokens, told=False))
        self._end(old_id, GIVEN_BACK)
        self._renew_now()

    def settle(self, tenant: str, reservation_id: str, tokens: int) -> None:
        if self._local is not None:
            self._local.settle(tenant, reservation_id, tokens)
        self._end(reservation_id, min(tokens, MOST_TOKENS))

    async def _asked(
        self, tenant: str, terms: LimitTerms, reservation_id: str, tokens: int
    ) -> Granted | Refused | None:
        """None where Redis is away and the request is counted here; then it is held, too."""
        unanswered = HeldReservation(tenant, int(self._now_s()), tokens, told=self._link.there)
        limits = [-1 if limit is None else limit for limit in _in_order(terms)]
        arguments: list[str | int] = [reservation_id, tokens, PLACE_S, KEEP_S, *limits]
        try:
            answer = await self._link.call(ScriptCall(RESERVE, _keys(tenant, reservation_id), arguments))
        except BaseException as error:
            self._held.hold(reservation_id, unanswered)
            if self._local is not None and isinstance(error, RedisAway):
                return None
            self._end(reservation_id, GIVEN_BACK)
            raise
        why, retry_ms, requests, taken, requests_reset_ms, tokens_reset_ms, second = answer
        standing = Standing(requests, taken, requests_reset_ms / 1000, tokens_reset_ms / 1000)
        if why:
            return Refused(why.decode(), retry_ms / 1000, standing)
        self._held.hold(reservation_id, HeldReservation(tenant, second, tokens, told=True))
        return Granted(standing)

    def _end(self, reservation_id: str, tokens: int) -> None:
        self._held.end(reservation_id, tokens)
        self._wake.set()

    def _renew_now(self) -> None:
        self._renew_at_s = 0.0
        self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(self._renew_at_s, loop.time())):
                    await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(RedisAway):
                await self._tell_ended()
                if loop.time() >= self._renew_at_s:
                    self._renew_at_s = loop.time() + RENEW_S
                    await self._renew()
            if not self._link.there or loop.time() >= self._renew_at_s:
                self._renew_at_s = loop.time() + RENEW_S

    async def _tell_ended(self) -> None:
        while self._link.there and (batch := self._held.tell_ended(_BATCH)):
            await self._link.call_all([_settling(ended) for ended in batch])
            self._held.told(batch)

    async def _renew(self) -> None:
        for tenant, held in self._held.open_by_tenant.items():
            for first in range(0, len(held), _BATCH):
                # What has ended meanwhile is told after this, by this task: its end is the last word.
                part = held[first : first + _BATCH]
                self._held.tell_open([reservation_id for reservation_id, _ in part])
                account = account_key(tenant)
                keys = [account, f"{account}:running", *(f"{account}:r:{reservation_id}" for reservation_id, _ in part)]
                told = [word for id_, each in part for word in (id_, each.second, each.tokens)]
                await self._link.call(ScriptCall(RENEW, keys, [PLACE_S, KEEP_S, *told]))


def account_key(tenant: str) -> str:
    """Of no other tenant, whatever its name; a cluster keeps together what is in braces."""
    return f"pilotlight:limits:{{{quote(tenant, safe='')}}}"


def _keys(tenant: str, reservation_id: str) -> list[str]:
    account = account_key(tenant)
    return [account, f"{account}:running", f"{account}:r:{reservation_id}"]


def _settling(ended: EndedReservation) -> ScriptCall:
    return ScriptCall(SETTLE, _keys(ended.tenant, ended.id), [ended.id, ended.tokens, REMEMBER_S, ended.second])


def _in_order(terms: LimitTerms) -> tuple[int | None, ...]:
    return (
        terms.requests_per_minute,
        terms.tokens_per_minute,
        terms.concurrency,
        terms.tokens_per_day,
        terms.tokens_per_month,
    )
