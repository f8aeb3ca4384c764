"""Passes a request on to the endpoint's pods, and their answer back as it comes.

The client's keys stay here. What the pods' answer took is read out of its `usage`, a stream's out of what it tells of
its tokens. What fails before its first byte is sent again where that does no harm (`resilience`), a stream that is cut
after it goes on elsewhere (`pods_stream`); pods that fail again and again are left alone for a moment. It must not
decide which way a request goes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pilotlight_gateway.pods_way import pods_answer
from pilotlight_gateway.pods_way.event_feed import EventFeed
from pilotlight_gateway.pods_way.pods_request import PodsRequest, pods_request
from pilotlight_gateway.pods_way.pods_stream import PodsSource, PodsStream, Source
from pilotlight_gateway.pods_way.short_source import goes_short, short_source
from pilotlight_gateway.request_steps import GatewayRequest, Way
from pilotlight_gateway.resilience.breaker import Breaker, BreakerSettings
from pilotlight_gateway.resilience.patience import PatienceSettings
from pilotlight_gateway.resilience.retries import (
    Failure,
    RetryBudget,
    RetrySettings,
    Situation,
    backoff_s,
    is_repeatable,
)
from pilotlight_gateway.surfaces import last_events
from pilotlight_protocol.answer_record import RESUME, TELL, Seed
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_wire.connection_pool import ConnectFailed, ConnectionPool
from pilotlight_wire.handlers import JSON, Reply, Stream
from pilotlight_wire.hop_headers import parse_retry_after, parse_server_timing, passed_back
from pilotlight_wire.http_connection import HttpConnection
from pilotlight_wire.upstream_address import predictor_address

IDLE_S = 60.0
"""Shorter than the ingress keeps a connection, so that it is not closed just when a request is sent."""
MOST_ENDPOINTS = 4096
LOSS_S = 60.0
"""How long one loss may keep a client waiting for the next token."""

_log = logging.getLogger("pilotlight.gateway.pods")
_EVENT_STREAM = "text/event-stream"
_WAKING_PATH = "/v2/health/ready"
_PASSED_BACK = ("retry-after", "inference-header-content-length", "allow")


@dataclass(frozen=True, slots=True)
class Timing:
    """`connect_s`; `silence_s`: the longest of the pods, to the first byte and between bytes."""

    connect_s: float = 10.0
    silence_s: float = 300.0
    patience: PatienceSettings = field(default_factory=PatienceSettings)


class _Endpoint:
    """What is known of one endpoint's pods as an upstream."""

    def __init__(self, now_s: float, retries: RetrySettings) -> None:
        self.breaker = Breaker(BreakerSettings())
        self.budget = RetryBudget(retries, now_s)


class PodsWay:
    """Implements `request_steps.Way`, over one pool of connections for each ingress. `jitter`: from 0 to 1. `short`:
    where a stream goes on that was cut here."""

    def __init__(
        self,
        timing: Timing = Timing(),
        retries: RetrySettings = RetrySettings(),  # noqa: B008
        jitter: Callable[[], float] = random.random,
        short: Way | None = None,
    ) -> None:
        self._timing = timing
        self._retries = retries
        self._jitter = jitter
        self._short = short
        self._pools: dict[str, ConnectionPool] = {}
        self._endpoints: OrderedDict[tuple[str, str], _Endpoint] = OrderedDict()
        self._waking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def wake(self, entry: EndpointEntry) -> None:
        """Let the endpoint's pods start for requests to come, as one at the ingress does. Returns at once."""
        if entry.key not in self._waking:
            task = asyncio.create_task(self._wake(entry), name=f"wake {entry.name}")
            self._waking[entry.key] = task
            task.add_done_callback(lambda _: self._waking.pop(entry.key, None))

    async def _wake(self, entry: EndpointEntry) -> None:
        pool = self._pool(entry.pods)
        head = f"GET {_WAKING_PATH} HTTP/1.1\r\nhost: {entry.pods.host}\r\n\r\n"
        try:
            async with asyncio.timeout(entry.timeout_s):
                connection = await pool.exchange(head.encode("latin-1"))
                pool.settle(connection)
        except (PilotlightError, TimeoutError) as error:
            _log.info("the pods of %s/%s could not be woken: %s", *entry.key, error)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        asked = pods_request(request)
        if request.entry.text is not None and _may_stream(request):
            seed = Seed(int(time.time()), secrets.token_hex(16))
            asked = replace(asked, headers={**asked.headers, TELL: seed.header})
        ends_s = asyncio.get_running_loop().time() + request.entry.timeout_s
        pool, connection = await self._exchange(request, asked, ends_s)
        return await self._answered(request, asked, pool, connection, ends_s)

    async def _exchange(
        self, request: GatewayRequest, asked: PodsRequest, ends_s: float
    ) -> tuple[ConnectionPool, HttpConnection]:
        """The head of an answer has come; what can be sent again was."""
        loop = asyncio.get_running_loop()
        pool, endpoint = self._pool(request.entry.pods), self._endpoint(request.entry.key, loop.time())
        raw, repeatable = asked.raw(), is_repeatable(request.place.method, request.place.path)
        endpoint.budget.earn(loop.time())
        for retries in itertools.count():
            tried = await self._tried(request, raw, pool, endpoint.breaker, repeatable=repeatable)
            if isinstance(tried, HttpConnection):
                return pool, tried
            situation = Situation(retries, repeatable, elsewhere=False, left_s=ends_s - loop.time())
            wait_s = backoff_s(tried.failure, situation, self._retries, self._jitter())
            if wait_s is None or not endpoint.budget.spend(loop.time()):
                if tried.connection is not None:
                    return pool, tried.connection
                assert tried.error is not None
                raise tried.error
            if tried.connection is not None:
                pool.settle(tried.connection)
            _log.info("request %s is sent again in %.2f s: %s", request.context.request_id, wait_s, tried.failure)
            await asyncio.sleep(wait_s)
        raise AssertionError

    async def _tried(
        self, request: GatewayRequest, raw: bytes, pool: ConnectionPool, breaker: Breaker, *, repeatable: bool
    ) -> HttpConnection | _Failed:
        """The head of an answer has come, or it failed in a way that may be tried again."""
        loop, began_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        permit = breaker.admit(began_s)
        if permit is None:
            raise Unavailable(
                "the endpoint's pods fail again and again; they are left alone for a moment",
                retry_after_s=max(1.0, breaker.retry_after_s(began_s)),
            )
        is_cold = request.entry.pods_ready == 0

        def fail(permit: int) -> None:
            """A cold start says nothing of the pods' health."""
            if is_cold:
                breaker.abandoned(permit)
            else:
                breaker.failed(permit, loop.time())

        try:
            connection = await pool.exchange(raw, repeatable=repeatable)
        except ConnectFailed as error:
            fail(permit)
            return _Failed(Failure("no_connection"), error)
        except PilotlightError as error:
            fail(permit)
            if not isinstance(error, Unavailable):
                raise
            return _Failed(Failure("broken"), error)
        except BaseException:
            breaker.abandoned(permit)
            raise
        if connection.status not in (500, 502, 503, 504):
            breaker.succeeded(permit, loop.time(), None if is_cold else loop.time() - began_s)
            return connection
        retry_after_s = parse_retry_after(connection.headers.get("retry-after"))
        if retry_after_s is None:
            fail(permit)
        else:
            breaker.abandoned(permit)
        return _Failed(Failure("status", connection.status, retry_after_s), None, connection)

    async def _answered(
        self,
        request: GatewayRequest,
        asked: PodsRequest,
        pool: ConnectionPool,
        connection: HttpConnection,
        ends_s: float,
    ) -> Reply | Stream:
        context = request.context
        context.server_timing.update(parse_server_timing(connection.headers.get("server-timing", "")))
        context.response_headers.update(passed_back(connection.headers))
        content_type = connection.headers.get("content-type", JSON)
        if connection.status == 200 and content_type.startswith(_EVENT_STREAM):
            source = PodsSource(pool, connection, _left_s(ends_s))
            feed = EventFeed(request.usage, last_events(request.place.path))

            async def go_on(feed: EventFeed, resumes: int) -> Source:
                return await self._rest(request, asked, feed, resumes)

            return Stream(PodsStream(source, feed, go_on, self._timing.patience), content_type)
        body = await pods_answer.whole(pool, connection)
        pods_answer.note_usage(body, request.usage)
        headers = {name: connection.headers[name] for name in _PASSED_BACK if name in connection.headers}
        return Reply(body, connection.status, content_type, headers)

    async def _rest(self, request: GatewayRequest, asked: PodsRequest, feed: EventFeed, resumes: int) -> Source:
        """What comes after what was fed: of the short way where the endpoint may go it, every other time of pods."""
        if not is_repeatable(request.place.method, request.place.path):
            raise Unavailable("the request may do harm twice")
        resumption, body = feed.go_on(asked.body)
        more = {} if resumption is None else {RESUME: resumption.header}
        again = replace(asked, headers={**asked.headers, **more}, body=body)
        if resumption is not None and self._short is not None and resumes % 2 and goes_short(request.entry):
            return await short_source(self._short, request, again, LOSS_S)
        ends_s = asyncio.get_running_loop().time() + LOSS_S
        pool, connection = await self._exchange(request, again, ends_s)
        if connection.status == 200:
            return PodsSource(pool, connection, _left_s(ends_s))
        said = await pods_answer.whole(pool, connection)
        raise Unavailable(pods_answer.refusal(said, connection.status))

    def _pool(self, pods: PodsAddress) -> ConnectionPool:
        pool = self._pools.get(pods.url)
        if pool is None:
            address = predictor_address(pods.url, use_tls=False)
            timing = self._timing
            pool = ConnectionPool(
                address, connect_timeout_s=timing.connect_s, timeout_s=timing.silence_s, idle_s=IDLE_S
            )
            self._pools[pods.url] = pool
        return pool

    def _endpoint(self, key: tuple[str, str], now_s: float) -> _Endpoint:
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = _Endpoint(now_s, self._retries)
            if len(self._endpoints) > MOST_ENDPOINTS:
                self._endpoints.popitem(last=False)
        self._endpoints.move_to_end(key)
        return endpoint

    async def close(self) -> None:
        waking = list(self._waking.values())
        for task in waking:
            task.cancel()
        if waking:
            await asyncio.wait(waking)
        for pool in self._pools.values():
            pool.close()


@dataclass(frozen=True, slots=True)
class _Failed:
    """`error`: what the client is told; where there is an answer, `connection` has it."""

    failure: Failure
    error: PilotlightError | None
    connection: HttpConnection | None = None


def _may_stream(request: GatewayRequest) -> bool:
    return bool(request.asked.stream) or request.place.component_path.rstrip("/").endswith("/generate_stream")


def _left_s(ends_s: float) -> float:
    return max(0.1, ends_s - asyncio.get_running_loop().time())
