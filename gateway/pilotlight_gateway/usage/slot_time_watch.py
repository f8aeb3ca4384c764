"""Asks the warm pool from time to time for how long slots were held, and books what has come to it since.

It counts short way and pods alike: both lease from the pool. What a pool that ends has not told is lost. Must not know
what it costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from pilotlight_engine.leasing.leased_holder import PoolAddress
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.usage.usage_book import UsageBook
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import SlotTimesAnswer

PERIOD_S = 5.0
ANSWER_WITHIN_S = 5.0
Book = Callable[[str, str, int], None]
"""Tenant, model's name, milliseconds."""

_OK = 200
_answers = msgspec.json.Decoder(SlotTimesAnswer)
_log = logging.getLogger("pilotlight.gateway.usage")


class SlotTimeNews:
    """What of a pool's answers is new. Pure."""

    def __init__(self) -> None:
        self._epoch = ""
        self._told_ms: dict[tuple[str, str], int] = {}

    def of(self, answer: SlotTimesAnswer) -> list[tuple[str, str, int]]:
        before_ms = self._told_ms if answer.epoch == self._epoch else {}
        self._epoch = answer.epoch
        self._told_ms = {(each.tenant, each.model_name): round(each.slot_s * 1000) for each in answer.times}
        news = []
        for (tenant, name), told_ms in self._told_ms.items():
            known_ms = before_ms.get((tenant, name), 0)
            # One that the pool had left out has begun at nothing.
            new_ms = told_ms - known_ms if told_ms >= known_ms else told_ms
            if new_ms:
                news.append((tenant, name, new_ms))
        return news


class SlotTimesByEndpoint:
    """From the pool's names to endpoints; what is no endpoint any more is booked under its model's name."""

    def __init__(self, table: EndpointTable, book: UsageBook) -> None:
        self._table = table
        self._book = book

    def held(self, tenant: str, model_name: str, slot_ms: int) -> None:
        target = self._table.find(Caller(tenant), f"{tenant}/{model_name}")
        endpoint = model_name if target is None else target.entry.name
        self._book.held_slot(tenant, endpoint, model_name, slot_ms)


class SlotTimeWatch:
    """From `start` to `close`, which asks once more."""

    def __init__(self, pool: PoolAddress, book: Book) -> None:
        self._pool = pool
        self._book = book
        self._news = SlotTimeNews()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="slot times")

    async def look(self) -> None:
        try:
            answer = await asyncio.to_thread(self._asked)
        except (PilotlightError, msgspec.DecodeError) as error:
            _log.debug("the pool does not tell its slots' times: %s", error)
            return
        if answer is not None:
            for tenant, name, slot_ms in self._news.of(answer):
                self._book(tenant, name, slot_ms)

    def _asked(self) -> SlotTimesAnswer | None:
        answer = self._pool.transport().exchange("GET", "/v1/slot_times", None, ANSWER_WITHIN_S)
        return _answers.decode(answer.body) if answer.status == _OK else None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self.look()

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(PERIOD_S)
