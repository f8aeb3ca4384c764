"""HTTP/1.1 through the ingress: find the endpoint, hold the request in its activator, stream both ways.

Bytes are passed on as they arrive, status and headers of the pod unchanged, `Server-Timing: activate` added. A client
that leaves cancels the handler, which closes the connection to the pod. Must not: know how pods are started, or
decide about scale.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from pilotlight_local.activator.activator import Backend
from pilotlight_local.errors import ActivationTimeout, UnknownHost, UpstreamFailed
from pilotlight_local.ingress.headers import REQUEST_ID, SERVER_TIMING, end_to_end, request_headers, wants_progress
from pilotlight_local.ingress.platform_routes import answer_platform_request
from pilotlight_local.ingress.routes import Component, EndpointName, path_in_pod
from pilotlight_local.ingress.table import EndpointTable, Route
from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event, style_of_path
from pilotlight_protocol.errors import PilotlightError, from_status
from pilotlight_wire.server_timing import Phase, format_phase, parse_phases

CONNECT_ATTEMPTS = 3
# Below the keep-alive of uvicorn (5 s), so that a pod never closes a connection that is just being reused.
UPSTREAM_KEEPALIVE_S = 2.0
PROGRESS_PERIOD_S = 1.0
LARGEST_WRAPPED_ERROR_BYTES = 1 << 20


def new_upstream_session() -> aiohttp.ClientSession:
    """The client for pods: no decoding, no limits of its own; the caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=UPSTREAM_KEEPALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def error_response(error: PilotlightError, style: ErrorStyle, request_id: str) -> web.Response:
    """The error as the pod would have said it."""
    headers = {REQUEST_ID: request_id}
    if error.retry_after_header is not None:
        headers["Retry-After"] = error.retry_after_header
    return web.Response(
        body=error_body(error, style), status=error.http_status, headers=headers, content_type="application/json"
    )


class HttpIngress:
    """Handler of every HTTP/1.1 request that reaches the ingress or a component's in-cluster address."""

    def __init__(self, table: EndpointTable, session: aiohttp.ClientSession) -> None:
        self._table = table
        self._session = session

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """A request on the ingress port: routed by host, then by path."""
        target = request.raw_path
        destination = self._table.find(request.headers.get("Host", ""), target)
        if destination is not None:
            route = self._table.choose(destination.endpoint, destination.component)
            return await self._serve(request, route, destination.path)
        answer = answer_platform_request(self._table, request)
        if answer is not None:
            return answer
        request_id = request.headers.get(REQUEST_ID) or secrets.token_hex(8)
        unknown = UnknownHost(
            f"no endpoint for host {request.headers.get('Host')!r} and {target!r}; `pilotlight status` lists them"
        )
        return error_response(unknown, style_of_path(path_in_pod(target)), request_id)

    async def handle_service(
        self, request: web.BaseRequest, endpoint: EndpointName, component: Component
    ) -> web.StreamResponse:
        """A request on a component's in-cluster address: the listener decides, not the host."""
        return await self._serve(request, self._table.choose(endpoint, component), request.raw_path)

    async def _serve(self, request: web.BaseRequest, route: Route, path: str) -> web.StreamResponse:
        request_id = request.headers.get(REQUEST_ID) or secrets.token_hex(8)
        started = time.monotonic()
        deadline_s = asyncio.get_running_loop().time() + route.timeout_s
        exchange = _Exchange(self._session, request, route, path, request_id, deadline_s)
        status = 499
        try:
            if wants_progress(request.headers) and route.is_cold():
                response = await exchange.answer_with_progress()
            else:
                response = await exchange.answer()
            status = response.status
        except PilotlightError as error:
            status = error.http_status
            response = error_response(error, style_of_path(path), request_id)
        finally:
            self._table.record(route, status, time.monotonic() - started, exchange.phases)
        return response


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        request: web.BaseRequest,
        route: Route,
        path: str,
        request_id: str,
        deadline_s: float,
    ) -> None:
        self._session = session
        self._request = request
        self._route = route
        self._path = path
        self._request_id = request_id
        self._deadline_s = deadline_s
        self.phases: list[Phase] = []

    async def answer(self) -> web.StreamResponse:
        """Hold, forward and stream back."""
        async with self._upstream() as upstream:
            response = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers)
            )
            response.headers[SERVER_TIMING] = ", ".join(map(format_phase, self.phases))
            response.headers.setdefault(REQUEST_ID, self._request_id)
            response.headers.setdefault("Server", "pilotlight")
            await response.prepare(self._request)
            await self._copy(upstream, response)
            return response

    async def answer_with_progress(self) -> web.StreamResponse:
        """Like `answer` for a client that rather sees comment lines than silence: status 200 is sent at once."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache", REQUEST_ID: self._request_id}
        )
        await response.prepare(self._request)
        lines = asyncio.create_task(self._write_progress(response))
        try:
            async with self._upstream() as upstream:
                await _end(lines)
                await response.write(f": server-timing {format_phase(self.phases[0])}\n\n".encode())
                if upstream.content_type == "text/event-stream":
                    await self._copy(upstream, response)
                else:
                    body = await upstream.content.read(LARGEST_WRAPPED_ERROR_BYTES)
                    await response.write(_as_event(upstream.status, body, style_of_path(self._path)))
        except PilotlightError as error:
            await _end(lines)
            await response.write(error_event(error, style_of_path(self._path)))
        finally:
            await _end(lines)
        return response

    async def _write_progress(self, response: web.StreamResponse) -> None:
        while True:
            phase, eta_s = self._route.progress()
            eta = "unknown" if eta_s is None else f"{eta_s:.0f}"
            await response.write(f": phase={phase} eta_s={eta}\n\n".encode())
            await asyncio.sleep(PROGRESS_PERIOD_S)

    @asynccontextmanager
    async def _upstream(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """The pod's answer, headers read; leaving closes or returns the connection and gives the pod back."""
        for attempt in range(CONNECT_ATTEMPTS):
            held_from = time.monotonic()
            backend = await self._route.activator.acquire(self._deadline_s)
            held_ms = (time.monotonic() - held_from) * 1000
            try:
                try:
                    upstream = await self._send(backend)
                except aiohttp.ClientConnectorError as error:
                    # Nothing of the request has left: another pod can still take it.
                    self._route.activator.suspect(backend)
                    if attempt + 1 == CONNECT_ATTEMPTS:
                        raise UpstreamFailed(f"{backend.name} does not accept connections; try again") from error
                    continue
                self._note_phases(held_ms, upstream)
                try:
                    yield upstream
                finally:
                    upstream.release() if upstream.content.at_eof() else upstream.close()
                return
            finally:
                self._route.activator.release(backend)

    async def _send(self, backend: Backend) -> aiohttp.ClientResponse:
        request = self._request
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await self._session.request(
                    request.method,
                    URL(f"http://127.0.0.1:{backend.port}{self._path}", encoded=True),
                    headers=request_headers(request.headers, self._request_id),
                    data=request.content if request.can_read_body else None,
                    allow_redirects=False,
                )
        except TimeoutError as error:
            raise ActivationTimeout(
                f"{self._route.revision} did not answer within its timeout of {self._route.timeout_s:.0f} s"
            ) from error
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamFailed(f"{backend.name} broke the connection before it answered: {error}") from error

    def _note_phases(self, held_ms: float, upstream: aiohttp.ClientResponse) -> None:
        activate = Phase("activate", held_ms, self._route.component)
        self.phases = [activate, *parse_phases(upstream.headers.getall(SERVER_TIMING, ()))]

    async def _copy(self, upstream: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        try:
            async with asyncio.timeout_at(self._deadline_s):
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
        except (aiohttp.ClientError, TimeoutError):
            # The answer is cut short; the client must see that, so its connection breaks as well.
            self._abort_client()

    def _abort_client(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _as_event(status: int, body: bytes, style: ErrorStyle) -> bytes:
    """An answer that is no event stream, as one event."""
    text = body.decode(errors="replace")
    if status >= 400:
        try:
            message = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            message = text
        if style == "openai" and isinstance(message, str):
            return error_event(from_status(status, message), style)
        text = json.dumps({"error": message, "status": status})
    return b"".join(f"data: {line}\n".encode() for line in text.splitlines()) + b"\n"


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
