"""Waits until this gateway has heard of a change of the platform's endpoints, so that what it answers next is true."""

from __future__ import annotations

import asyncio

from pilotlight_gateway.directory.endpoint_table import EndpointKey, EndpointTable
from pilotlight_protocol.endpoint_orders import NewsPlace
from pilotlight_protocol.errors import Unavailable

PATIENCE_S = 10.0


class NewsWaiter:
    def __init__(self, table: EndpointTable, patience_s: float = PATIENCE_S) -> None:
        self._table = table
        self._patience_s = patience_s
        self._news = asyncio.Event()
        table.subscribe(self._told)

    async def heard(self, place: NewsPlace) -> None:
        """Raises Unavailable when the news do not come; what was ordered stays ordered."""
        try:
            async with asyncio.timeout(self._patience_s):
                while not self._has(place):
                    await self._news.wait()
        except TimeoutError as error:
            raise Unavailable("it is done, but this gateway has not heard of it yet; ask again") from error

    def _has(self, place: NewsPlace) -> bool:
        return self._table.epoch == place.epoch and self._table.version >= place.version

    def _told(self, changed: set[EndpointKey]) -> None:
        self._news.set()
        self._news = asyncio.Event()
