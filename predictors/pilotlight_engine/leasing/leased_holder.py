"""A holder of engines that a warm pool lends: the asks, the provider and the holder put together.

Composition only. Must be called inside the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from pilotlight_engine.client.pool_client import connect
from pilotlight_engine.leasing.engine_holder import EngineHolder, Lending
from pilotlight_engine.leasing.lease_client import Lease, LeaseAsk
from pilotlight_engine.leasing.lease_provider import CONNECT_DEADLINE_S, LeaseDeadlines, LeasedEngine, LeaseProvider
from pilotlight_engine.leasing.pool_http import PoolHttp
from pilotlight_protocol.leases import LeaseRequest


@dataclass(frozen=True, slots=True)
class PoolAddress:
    """`key`: the pool's lease key, "" where it wants none."""

    url: str
    key: str = ""

    def transport(self) -> PoolHttp:
        return PoolHttp(self.url, self.key)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """`first_s`: how long an ask may take until one was granted; `wait_s`: afterwards, and how long a request waits.
    `idle_s`: a lease without work for so long is given back."""

    first_s: float
    wait_s: float
    idle_s: float


def asks(wish: LeaseRequest, pool: PoolAddress) -> Callable[[float], LeaseAsk]:
    """Makes asks for that lease, given how many seconds each may take."""
    return lambda deadline_s: LeaseAsk(wish, pool.transport, deadline_s)


def leased_holder(
    wish: LeaseRequest, pool: PoolAddress, times: LeaseTimes, first: tuple[LeaseAsk, Future[Lease]] | None = None
) -> EngineHolder:
    """Engines of the pool, held while there is work. `first`: an ask that is already under way."""

    async def connected(lease: Lease) -> LeasedEngine:
        return await connect(lease.endpoint, lease.lease_id, lease.secret, deadline_s=CONNECT_DEADLINE_S)

    provider = LeaseProvider(
        wish.model_name,
        asks(wish, pool),
        LeaseDeadlines(times.first_s, times.wait_s),
        pool.transport,
        connected,
        first,
    )
    lending = Lending(times.idle_s, times.wait_s, provider.check_pool, lambda: provider.news, provider.watch)
    return EngineHolder(provider, lending)
