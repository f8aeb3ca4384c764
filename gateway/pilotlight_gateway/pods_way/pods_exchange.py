"""Sends a request to one of the endpoint's replicas, and again where that does no harm, until there is an answer: all
of it, or of a stream its head.

Responsible for who is asked and how often. It must not know what is asked, or what the answer says.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pilotlight_gateway.balancing.carried_request import CarriedRequest
from pilotlight_gateway.balancing.replica_choice import ChoiceSettings, another_admits, choose, prefix_of
from pilotlight_gateway.limits.request_estimate import estimated_prompt_tokens
from pilotlight_gateway.metrics import RETRIES
from pilotlight_gateway.pods_way import pods_answer
from pilotlight_gateway.pods_way.metrics_watch import MetricsWatch
from pilotlight_gateway.pods_way.pods_request import PodsRequest
from pilotlight_gateway.pods_way.replica_set import EndpointUpstreams, ReplicaSet, Upstream
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.resilience.retries import Failure, RetrySettings, Situation, backoff_s, is_repeatable
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_wire.connection_pool import ConnectFailed
from pilotlight_wire.handlers import JSON
from pilotlight_wire.hop_headers import parse_retry_after
from pilotlight_wire.http_connection import HttpConnection

_CHOICE = ChoiceSettings()
_EVENT_STREAM = "text/event-stream"
_log = logging.getLogger("pilotlight.gateway.pods")


@dataclass(frozen=True, slots=True)
class Exchange:
    """The head of an answer has come. `carried`: where it is one of several replicas'. `body`: where all of it has been
    read, and it is closed. Close any other in `finally`."""

    upstream: Upstream
    connection: HttpConnection
    carried: CarriedRequest | None
    body: bytes | None = None

    @property
    def content_type(self) -> str:
        return self.connection.headers.get("content-type", JSON)

    @property
    def is_stream(self) -> bool:
        return self.connection.status == 200 and self.content_type.startswith(_EVENT_STREAM)

    async def whole(self) -> bytes:
        """All of the answer; closes it. Raises PilotlightError."""
        if self.body is not None:
            return self.body
        try:
            return await pods_answer.whole(self.connection, self.upstream.pool)
        finally:
            self.close()

    def passed(self, output_tokens: int) -> None:
        """In all, up to now."""
        if self.carried is not None:
            self.carried.passed(output_tokens)

    def broke(self, now_s: float) -> None:
        """Behind its head: which says as much of the replica's health as a head that does not come."""
        permit = self.upstream.breaker.admit(now_s)
        if permit is not None:
            self.upstream.breaker.failed(permit, now_s)

    def close(self) -> None:
        """Ends the work behind an answer that was not read to its end."""
        self.upstream.pool.release(self.connection)
        if self.carried is not None:
            self.carried.end()


class PodsExchange:
    """`random`: from 0 up to, but not, 1."""

    def __init__(self, replicas: ReplicaSet, retries: RetrySettings, random: Callable[[], float]) -> None:
        self._replicas = replicas
        self._retries = retries
        self._random = random
        self._metrics = MetricsWatch(replicas)

    async def begin(self, request: GatewayRequest, asked: PodsRequest, ends_s: float, *, avoid: str = "") -> Exchange:
        """`avoid`: the name of a replica that is asked only where there is no other. Raises PilotlightError."""
        loop = asyncio.get_running_loop()
        endpoint = self._replicas.of(request.entry, loop.time())
        place = request.place
        repeatable = is_repeatable(place.method, place.path)
        endpoint.budget.earn(loop.time())
        tried = {number for number, upstream in enumerate(endpoint.upstreams) if upstream.name == avoid}
        prefix = None
        if len(endpoint.upstreams) > 1:
            self._metrics.wanted()
            prefix = prefix_of(asked.body, request.caller.tenant)
        for retries in itertools.count():
            now_s = loop.time()
            upstream = self._chosen(endpoint, prefix, tried, now_s)
            # Who leaves while pods work for it, or does not wait long enough, has had their work. A cold start is none.
            request.usage.uncounted = request.entry.pods_ready != 0 and makes_tokens(place.method, place.component_path)
            answer = await self._tried(request, asked, upstream, balanced=len(endpoint.upstreams) > 1)
            request.usage.uncounted = False
            if isinstance(answer, Exchange):
                return answer
            elsewhere = another_admits(endpoint.upstreams, tried, loop.time())
            situation = Situation(retries, repeatable, elsewhere=elsewhere, left_s=ends_s - loop.time())
            wait_s = backoff_s(answer.failure, situation, self._retries, self._random())
            if request.elsewhere and not elsewhere and (retries or answer.failure.retry_after_s is not None):
                wait_s = None  # another endpoint answers now
            if wait_s is None or not endpoint.budget.spend(loop.time()):
                if answer.exchange is not None:
                    return answer.exchange
                assert answer.error is not None
                raise answer.error
            if answer.exchange is not None:
                answer.exchange.upstream.pool.settle(answer.exchange.connection)
            RETRIES.labels(answer.failure.kind).inc()
            _log.info("request %s is sent again in %.2f s: %s", request.context.request_id, wait_s, answer.failure)
            await asyncio.sleep(wait_s)
        raise AssertionError

    def _chosen(self, endpoint: EndpointUpstreams, prefix: int | None, tried: set[int], now_s: float) -> Upstream:
        """It is one that was tried from now on. Raises Unavailable."""
        upstreams = endpoint.upstreams
        if len(upstreams) == 1:
            place = 0 if upstreams[0].breaker.admits(now_s) else None
        else:
            chosen = choose(upstreams, prefix, tried, now_s, (self._random(), self._random()), _CHOICE)
            place = None if chosen is None else chosen.place
        if place is None:
            wait_s = min(upstream.breaker.retry_after_s(now_s) for upstream in upstreams)
            raise Unavailable(
                "the endpoint's pods fail again and again; they are left alone for a moment",
                retry_after_s=max(1.0, wait_s),
            )
        tried.add(place)
        return upstreams[place]

    async def _tried(
        self, request: GatewayRequest, asked: PodsRequest, upstream: Upstream, *, balanced: bool
    ) -> Exchange | _Failed:
        """An answer has come, of a stream its head, or it failed in a way that may be tried again."""
        loop, breaker = asyncio.get_running_loop(), upstream.breaker
        began_s = loop.time()
        permit = breaker.admit(began_s)
        assert permit is not None
        is_cold = request.entry.pods_ready == 0

        def fail() -> None:
            """A cold start says nothing of the pods' health."""
            if is_cold:
                breaker.abandoned(permit)
            else:
                breaker.failed(permit, loop.time())

        carried = _carried(request, upstream) if balanced else None
        repeatable = is_repeatable(request.place.method, request.place.path)
        connection: HttpConnection | None = None
        try:
            raw = asked.raw(upstream.address.host, time.monotonic())
            connection = await upstream.pool.exchange(raw, repeatable=repeatable)
        except ConnectFailed as error:
            fail()
            return _Failed(Failure("no_connection"), error)
        except PilotlightError as error:
            fail()
            if not isinstance(error, Unavailable):
                raise
            return _Failed(Failure("broken"), error)
        except BaseException:
            breaker.abandoned(permit)
            raise
        finally:
            if connection is None and carried is not None:
                carried.end()
        if connection.status not in (500, 502, 503, 504):
            breaker.succeeded(permit, loop.time(), None if is_cold else loop.time() - began_s)
            exchange = Exchange(upstream, connection, carried)
            return exchange if exchange.is_stream else await self._read(exchange, is_cold=is_cold)
        if carried is not None:
            carried.end()
        retry_after_s = parse_retry_after(connection.headers.get("retry-after"))
        if retry_after_s is None:
            fail()
        else:
            breaker.abandoned(permit)
        failure = Failure("status", connection.status, retry_after_s)
        return _Failed(failure, None, Exchange(upstream, connection, None))

    async def _read(self, exchange: Exchange, *, is_cold: bool) -> Exchange | _Failed:
        """Nothing of it is on its way to the client yet, so that one that was cut is one that did not come."""
        try:
            return replace(exchange, body=await exchange.whole())
        except Unavailable as error:
            if not is_cold:
                exchange.broke(asyncio.get_running_loop().time())
            return _Failed(Failure("broken"), error)

    async def close(self) -> None:
        await self._metrics.close()


@dataclass(frozen=True, slots=True)
class _Failed:
    """`error`: what the client is told; where there is an answer, `exchange` has it."""

    failure: Failure
    error: PilotlightError | None
    exchange: Exchange | None = None


def _carried(request: GatewayRequest, upstream: Upstream) -> CarriedRequest:
    usual = upstream.load.size
    most = request.asked.most_tokens
    output = usual if most is None else min(usual, float(most))
    return CarriedRequest(
        upstream.load, estimated_prompt_tokens(len(request.context.body)), output * (request.asked.n or 1)
    )
