"""The replicas of each endpoint as upstreams: connections, breaker, load and budget of retries, while they are used.

It must not know what is sent to them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pilotlight_gateway.balancing.replica_choice import Replica
from pilotlight_gateway.metrics import BREAKERS
from pilotlight_gateway.resilience.breaker import Breaker, BreakerSettings
from pilotlight_gateway.resilience.retries import RetryBudget, RetrySettings
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_wire.connection_pool import ConnectionPool
from pilotlight_wire.upstream_address import predictor_address

IDLE_S = 60.0
"""Shorter than the ingress keeps a connection, so that it is not closed just when a request is sent."""
MOST_ENDPOINTS = 4096


@dataclass(frozen=True, slots=True)
class Timing:
    """`connect_s`; `silence_s`: the longest of pods, to the first byte and between bytes."""

    connect_s: float = 10.0
    silence_s: float = 300.0


class Upstream(Replica):
    """One address of an endpoint."""

    __slots__ = ("address", "pool")

    def __init__(self, address: PodsAddress, pool: ConnectionPool) -> None:
        super().__init__(f"{address.url} {address.host}", Breaker(BreakerSettings()))
        self.address = address
        self.pool = pool


class EndpointUpstreams:
    """`used_s`: when a request was last sent to one of them."""

    def __init__(self, upstreams: list[Upstream], budget: RetryBudget, now_s: float) -> None:
        self.upstreams = upstreams
        self.budget = budget
        self.used_s = now_s


class ReplicaSet:
    def __init__(self, timing: Timing, retries: RetrySettings) -> None:
        self._timing = timing
        self._retries = retries
        self._pools: dict[str, ConnectionPool] = {}
        self._endpoints: OrderedDict[tuple[str, str], EndpointUpstreams] = OrderedDict()
        for standing in ("open", "half_open"):
            BREAKERS.labels(standing).set_function(partial(self._standing, standing))

    def _standing(self, standing: str) -> int:
        now_s = asyncio.get_running_loop().time()
        known = (upstream for endpoint in self._endpoints.values() for upstream in endpoint.upstreams)
        return sum(upstream.breaker.standing(now_s) == standing for upstream in known)

    def of(self, entry: EndpointEntry, now_s: float) -> EndpointUpstreams:
        """What is known of an address stays known while the endpoint has it."""
        addresses = entry.replicas or (entry.pods,)
        known = self._endpoints.get(entry.key)
        if known is None:
            known = self._endpoints[entry.key] = EndpointUpstreams([], RetryBudget(self._retries, now_s), now_s)
            if len(self._endpoints) > MOST_ENDPOINTS:
                self._endpoints.popitem(last=False)
        if len(known.upstreams) != len(addresses) or any(
            upstream.address != address for upstream, address in zip(known.upstreams, addresses, strict=True)
        ):
            kept = {upstream.address: upstream for upstream in known.upstreams}
            known.upstreams = [kept.get(address) or Upstream(address, self.pool(address)) for address in addresses]
        self._endpoints.move_to_end(entry.key)
        known.used_s = now_s
        return known

    def balanced(self, since_s: float) -> Iterator[Upstream]:
        """Those among which somebody chose lately."""
        for endpoint in reversed(self._endpoints.values()):
            if endpoint.used_s < since_s:
                return
            if len(endpoint.upstreams) > 1:
                yield from endpoint.upstreams

    def pool(self, address: PodsAddress) -> ConnectionPool:
        pool = self._pools.get(address.url)
        if pool is None:
            pool = self._pools[address.url] = ConnectionPool(
                predictor_address(address.url, use_tls=False),
                connect_timeout_s=self._timing.connect_s,
                timeout_s=self._timing.silence_s,
                idle_s=IDLE_S,
            )
        return pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
