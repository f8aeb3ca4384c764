"""Asks engines among which somebody chooses for their metrics, once a second while requests go to them.

A replica that tells nothing is as before: its load is what was sent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from pilotlight_gateway.balancing.engine_metrics import read_metrics
from pilotlight_gateway.pods_way.replica_set import ReplicaSet, Upstream
from pilotlight_protocol.errors import PilotlightError
from pilotlight_wire.http_connection import ConnectionLost, Silence

EVERY_S = 1.0
ANSWER_WITHIN_S = 1.0
USED_WITHIN_S = 30.0
MOST_REPLICAS = 256
MOST_BYTES = 1024 * 1024


class MetricsWatch:
    """Runs from `wanted` until nobody has wanted it for a while."""

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self._watching: asyncio.Task[None] | None = None

    def wanted(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="metrics of replicas")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while upstreams := list(itertools.islice(self._replicas.balanced(loop.time() - USED_WITHIN_S), MOST_REPLICAS)):
            await asyncio.gather(*(self._ask(upstream) for upstream in upstreams))
            await asyncio.sleep(EVERY_S)

    async def _ask(self, upstream: Upstream) -> None:
        asked_s, was_busy = asyncio.get_running_loop().time(), upstream.load.requests > 0
        with contextlib.suppress(PilotlightError, ConnectionLost, Silence, TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                metrics = read_metrics(await _answer(upstream), asked_s)
            if metrics is not None:
                upstream.load.tell(metrics, busy=was_busy)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})


async def _answer(upstream: Upstream) -> bytes:
    head = f"GET /metrics HTTP/1.1\r\nhost: {upstream.address.host}\r\n\r\n"
    connection = await upstream.pool.exchange(head.encode("latin-1"))
    body = bytearray()
    try:
        while len(body) < MOST_BYTES and (piece := await connection.read()):
            body += piece
    finally:
        upstream.pool.release(connection)
    return bytes(body)
