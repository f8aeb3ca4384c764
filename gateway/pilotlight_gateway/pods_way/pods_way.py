"""Passes a request on to the endpoint's pods through the platform's ingress, and their answer back as it comes.

The client's keys stay here. What the pods' answer took is read out of its `usage`; a stream that tells none is counted
by its events. It must not decide which way a request goes, or try twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import msgspec

from pilotlight_gateway.request_steps import GatewayRequest, TokenUsage
from pilotlight_gateway.surfaces import model_path
from pilotlight_protocol.endpoint_directory import PodsAddress
from pilotlight_wire.handlers import JSON, Reply, Stream
from pilotlight_wire.hop_headers import parse_server_timing, passed_back
from pilotlight_wire.http_connection import ConnectionLost, ConnectionPool, HttpConnection, Silence
from pilotlight_wire.upstream_address import predictor_address

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 300.0
_EVENT_STREAM = "text/event-stream"
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


class PodsWay:
    """Implements `request_steps.Way`, over one pool of connections for each ingress."""

    def __init__(self) -> None:
        self._pools: dict[str, ConnectionPool] = {}

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        pool = self._pool(request.entry.pods)
        connection = await pool.exchange(_request(request), repeatable=request.method == "GET")
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
            pool = ConnectionPool(address, connect_timeout_s=CONNECT_TIMEOUT_S, timeout_s=SILENCE_S)
            self._pools[pods.url] = pool
        return pool

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class _Events:
    """The pieces of a stream, as they come. Closing it before its end ends the work behind it."""

    def __init__(self, pool: ConnectionPool, connection: HttpConnection, usage: TokenUsage) -> None:
        self._pool = pool
        self._connection = connection
        self._usage = usage

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._connection.read()
        except (ConnectionLost, Silence) as error:
            raise self._pool.explain(error) from error
        if not piece:
            raise StopAsyncIteration
        self._usage.output_tokens += piece.count(b"\ndata:") + piece.startswith(b"data:")
        return piece

    async def aclose(self) -> None:
        self._pool.release(self._connection)


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
    named = model_path(request.path)
    target, body = request.target, request.context.body
    if named is not None:
        query = request.target[len(request.path) :]
        target = f"/v2/models/{quote(request.model_name, safe='')}{named.tail}{query}"
    elif body and request.asked.model != request.model_name:
        body = _with_model(body, request.model_name)
    headers = _headers(request, len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{request.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


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
