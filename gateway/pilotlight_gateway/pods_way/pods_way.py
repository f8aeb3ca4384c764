"""Passes a request on to the endpoint's pods through the platform's ingress, and their answer back as it comes.

The client's keys stay here. What the pods' answer took is read out of its `usage`; a stream that tells none is counted
by its events. What fails before its first byte is sent again where that does no harm (`resilience`); pods that fail
again and again are left alone for a moment. It must not decide which way a request goes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from pilotlight_gateway.request_steps import GatewayRequest, TokenUsage
from pilotlight_gateway.resilience.breaker import Breaker, BreakerSettings
from pilotlight_gateway.resilience.retries import (
    Failure,
    RetryBudget,
    RetrySettings,
    Situation,
    backoff_s,
    is_repeatable,
)
from pilotlight_gateway.surfaces import model_path
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_wire.connection_pool import ConnectFailed, ConnectionPool
from pilotlight_wire.handlers import JSON, Reply, Stream
from pilotlight_wire.hop_headers import parse_retry_after, parse_server_timing, passed_back
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.poured_events import Sink
from pilotlight_wire.upstream_address import predictor_address

IDLE_S = 60.0
"""Shorter than the ingress keeps a connection, so that it is not closed just when a request is sent."""
MOST_ENDPOINTS = 4096
_log = logging.getLogger("pilotlight.gateway.pods")
_EVENT_STREAM = "text/event-stream"
_WAKING_PATH = "/v2/health/ready"
_KEPT_HERE = frozenset(
    ("authorization", "x-api-key", "host", "content-length", "content-encoding", "accept-encoding", "expect")
    + ("connection", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "cookie")
)
_PASSED_BACK = ("retry-after", "inference-header-content-length", "allow")


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Answered(msgspec.Struct):
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answered)


@dataclass(frozen=True, slots=True)
class Timing:
    """`connect_s`; `silence_s`: the longest of the pods, to the first byte and between bytes."""

    connect_s: float = 10.0
    silence_s: float = 300.0


class _Endpoint:
    """What is known of one endpoint's pods as an upstream."""

    def __init__(self, now_s: float, retries: RetrySettings) -> None:
        self.breaker = Breaker(BreakerSettings())
        self.budget = RetryBudget(retries, now_s)


class PodsWay:
    """Implements `request_steps.Way`, over one pool of connections for each ingress. `jitter`: from 0 to 1."""

    def __init__(
        self,
        timing: Timing = Timing(),
        retries: RetrySettings = RetrySettings(),  # noqa: B008
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._timing = timing
        self._retries = retries
        self._jitter = jitter
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
        loop = asyncio.get_running_loop()
        pool, endpoint = self._pool(request.entry.pods), self._endpoint(request.entry.key, loop.time())
        raw, repeatable = _request(request), is_repeatable(request.place.method, request.place.path)
        ends_s = loop.time() + request.entry.timeout_s
        endpoint.budget.earn(loop.time())
        for retries in itertools.count():
            tried = await self._tried(request, raw, pool, endpoint.breaker, repeatable=repeatable)
            if isinstance(tried, HttpConnection):
                return await self._answered(request, pool, tried)
            situation = Situation(retries, repeatable, elsewhere=False, left_s=ends_s - loop.time())
            wait_s = backoff_s(tried.failure, situation, self._retries, self._jitter())
            if wait_s is None or not endpoint.budget.spend(loop.time()):
                if tried.connection is not None:
                    return await self._answered(request, pool, tried.connection)
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
        self, request: GatewayRequest, pool: ConnectionPool, connection: HttpConnection
    ) -> Reply | Stream:
        context = request.context
        context.server_timing.update(parse_server_timing(connection.headers.get("server-timing", "")))
        context.response_headers.update(passed_back(connection.headers))
        content_type = connection.headers.get("content-type", JSON)
        if connection.status == 200 and content_type.startswith(_EVENT_STREAM):
            return Stream(_Events(pool, connection, request.usage), content_type)
        body = await _whole(pool, connection)
        _note_usage(body, request.usage)
        headers = {name: connection.headers[name] for name in _PASSED_BACK if name in connection.headers}
        return Reply(body, connection.status, content_type, headers)

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


class _Events:
    """The whole events of a stream, as they come: an error event must not follow half of one. Closing it before its
    end ends the work behind it."""

    def __init__(self, pool: ConnectionPool, connection: HttpConnection, usage: TokenUsage) -> None:
        self._pool = pool
        self._connection = connection
        self._usage = usage
        self._part = b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = await self._connection.read()
            except (ConnectionLost, Silence) as error:
                raise self._pool.explain(error) from error
            if not piece:
                rest, self._part = self._part, b""
                if rest:
                    return rest
                raise StopAsyncIteration
            events = self._whole_events(piece)
            if events:
                return events

    async def pour(self, sink: Sink) -> None:
        def take(piece: bytes) -> None:
            events = self._whole_events(piece)
            if events:
                sink.write(events)

        try:
            await self._connection.pour(take, sink)
        except (ConnectionLost, Silence) as error:
            raise self._pool.explain(error) from error
        if self._part:
            sink.write(self._part)

    def _whole_events(self, piece: bytes) -> bytes:
        """Those that are whole now; counted."""
        if self._part or not piece.endswith(b"\n\n"):
            piece = self._part + piece
            cut = max(_after(piece, b"\n\n"), _after(piece, b"\r\n\r\n"))
            piece, self._part = piece[:cut], piece[cut:]
        if piece:
            self._usage.output_tokens += piece.count(b"\ndata:") + piece.startswith(b"data:")
        return piece

    async def aclose(self) -> None:
        self._pool.release(self._connection)


def _after(piece: bytes, separator: bytes) -> int:
    """Where the last whole event ends."""
    place = piece.rfind(separator)
    return 0 if place < 0 else place + len(separator)


async def _whole(pool: ConnectionPool, connection: HttpConnection) -> bytes:
    body = bytearray()
    try:
        while piece := await connection.read():
            body += piece
    except (ConnectionLost, Silence) as error:
        raise pool.explain(error) from error
    finally:
        pool.release(connection)
    return bytes(body)


def _note_usage(body: bytes, usage: TokenUsage) -> None:
    if b'"usage"' not in body:
        return
    try:
        told = _answers.decode(body).usage
    except msgspec.MsgspecError:
        return
    if told is not None:
        usage.prompt_tokens += told.prompt_tokens or told.input_tokens or 0
        usage.output_tokens += told.completion_tokens or told.output_tokens or 0


def _request(request: GatewayRequest) -> bytes:
    named = model_path(request.place.path)
    target, body = request.place.target, request.context.body
    if named is not None:
        query = request.place.target[len(request.place.path) :]
        target = f"/v2/models/{quote(request.model_name, safe='')}{named.tail}{query}"
    elif body and request.asked.model != request.model_name:
        body = _with_model(body, request.model_name)
    headers = _headers(request, len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.place.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def _headers(request: GatewayRequest, length: int) -> Mapping[str, str]:
    context = request.context
    kept = {name: value for name, value in context.headers.items() if name not in _KEPT_HERE}
    own = {"host": request.entry.pods.host, "x-request-id": context.request_id, "content-length": str(length)}
    return kept | own


def _with_model(body: bytes, model_name: str) -> bytes:
    """The body with its `model` as the pods call it, everything else byte for byte."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model_name))
    return msgspec.json.encode(fields)
