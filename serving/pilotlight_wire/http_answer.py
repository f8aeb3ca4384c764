"""The way back of one HTTP request: request id, CORS, error bodies, and what is unread of the client's body. ASGI.

Whoever serves HTTP here answers through it, so that every answer, also an error, has the same headers and shapes. It
must not know routes, models or upstream servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event
from pilotlight_protocol.errors import PARAM_HEADER, PilotlightError
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.http_protocol import ABORT, DISCONNECT
from pilotlight_wire.request_body import BodyStalled, Receive
from pilotlight_wire.request_identity import request_id

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]

# What is read and thrown away after an early answer, so that the client gets to read it before the connection closes.
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_TIMEOUT_S = 2.0


class HttpAnswer:
    """`status`: of the answer once it has started, else 0. `client_gone`: nobody reads it any more."""

    __slots__ = (
        "_cors_headers",
        "_receive",
        "_scope",
        "_send",
        "body_unread",
        "client_gone",
        "closing",
        "has_body",
        "headers",
        "raw_headers",
        "request_id",
        "status",
        "style",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, cors: CorsPolicy, style: ErrorStyle) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.style = style
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._cors_headers = cors.answer_headers(self.headers)
        self.request_id = request_id(self.headers.get("x-request-id"))
        self.status = 0
        self.client_gone = False
        self.closing = False
        self.has_body = any(
            name in (b"transfer-encoding", b"content-length") and value != b"0" for name, value in scope["headers"]
        )
        self.body_unread = self.has_body or scope["method"] == "POST"

    def cancel_when_gone(self) -> None:
        """Cancel the current task when the client leaves."""
        task = asyncio.current_task()
        assert task is not None

        def on_disconnect() -> None:
            self.client_gone = True
            task.cancel()

        self._scope[DISCONNECT] = on_disconnect

    def over(self) -> None:
        """The client may leave without anybody being cancelled."""
        self._scope.pop(DISCONNECT, None)

    async def receive(self) -> dict[str, Any]:
        """The next piece of the client's body."""
        message = await self._receive()
        if not message.get("more_body"):
            self.body_unread = False
        return message

    async def start(self, status: int, headers: RawHeaders) -> None:
        """`headers`: beside the request id, CORS and `connection`, which are added here."""
        said = [(b"x-request-id", self.request_id.encode("ascii")), *headers]
        said += [(name.encode("ascii"), value.encode("latin-1")) for name, value in self._cors_headers.items()]
        if self.closing:
            said.append((b"connection", b"close"))
        await self.pass_on(status, said)

    async def pass_on(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Start with these headers and no others: another server's answer, whose headers are its own affair."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def reply(self, status: int, content_type: str, body: bytes, headers: RawHeaders = ()) -> None:
        """A whole answer."""
        own = [(b"content-type", content_type.encode("latin-1"))] if content_type else []
        if status != 204:
            own.append((b"content-length", b"%d" % len(body)))
        await self.start(status, [*own, *headers])
        if self.body_unread and status >= 400:
            await self.piece(body)
            await self._discard_body()
            body = b""
        await self.end(body)

    async def fail(self, error: PilotlightError, headers: RawHeaders = ()) -> None:
        """An error as the route's clients can read it: a status before the answer has started, else an event."""
        if self.status:
            self.status = error.http_status
            await self.piece(error_event(error, self.style))
            await self.end()
            return
        said = list(headers)
        if error.retry_after_header is not None:
            said.append((b"retry-after", error.retry_after_header.encode("ascii")))
        if error.param_header is not None:
            said.append((PARAM_HEADER.encode("ascii"), error.param_header.encode("latin-1")))
        if self.body_unread or isinstance(error, BodyStalled):
            self.closing = True
        await self.reply(error.http_status, "application/json", error_body(error, self.style), said)

    async def cut(self) -> None:
        """Break the connection in the middle of the answer, so that the client does not take it for whole."""
        self.over()
        self._scope[ABORT]()
        # The connection learns of it in the loop's next round.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _discard_body(self) -> None:
        discarded = 0
        try:
            async with asyncio.timeout(_DISCARD_TIMEOUT_S):
                while discarded < _DISCARD_BYTES:
                    message = await self.receive()
                    discarded += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            return
