"""Calls of Redis that are made at the same time, sent together: one round trip, and one share of what it costs here.

Where one of them fails, all that were sent with it do; so only what may be called again is called by it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pilotlight_gateway.redis_calls import RedisCalls, ScriptCall

MOST_TOGETHER = 32
"""All of them have the time that one call has."""


class GatheredCalls:
    def __init__(self, link: RedisCalls) -> None:
        self._link = link
        self._waiting: list[tuple[ScriptCall, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def call(self, call: ScriptCall) -> Any:
        """Raises RedisAway."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((call, answered))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        elif len(self._waiting) == MOST_TOGETHER:
            self._send()
        return await answered

    def _send(self) -> None:
        if self._waiting:
            together, self._waiting = self._waiting, []
            sending = asyncio.get_running_loop().create_task(self._sent(together), name="named answers")
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _sent(self, together: list[tuple[ScriptCall, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._link.call_all([call for call, _ in together])
        except Exception as error:
            for _, answered in together:
                if not answered.done():
                    answered.set_exception(error)
            return
        for (_, answered), answer in zip(together, answers, strict=True):
            if not answered.done():
                answered.set_result(answer)
