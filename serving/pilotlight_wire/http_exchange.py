"""One HTTP request on the server's side: who it is, its body in, its answer out. ASGI.

Whoever serves HTTP here answers through `HttpAnswer`, so that every answer, also an error, has the same headers and
shapes. A body is read within a size limit, plain, gzip or deflate. It must not know routes, models or upstream servers.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event, style_of_path
from pilotlight_protocol.errors import (
    CODE_HEADER,
    PARAM_HEADER,
    InvalidInput,
    PayloadTooLarge,
    PilotlightError,
    UnsupportedMediaType,
)
from pilotlight_wire.bodies_held import HeldBytes
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.edge_bounds import EdgeBounds
from pilotlight_wire.http_cycle import HttpCycle
from pilotlight_wire.http_protocol import ABORT, CYCLE, DISCONNECT, SERVER_WIDE
from pilotlight_wire.poured_events import pour

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]

# Unpacking more than this would hold the event loop for about a millisecond.
_UNPACK_IN_THREAD_BYTES = 128 * 1024
# What is read and thrown away after an early answer, so that the client gets to read it before the connection closes.
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_TIMEOUT_S = 2.0

# Those of as many requests as a server has places for are a small part of what bodies may have.
_SMALL_BODY_BYTES = 16 * 1024

_FIT_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def request_id(given: str | None) -> str:
    """`given` when it is fit to be logged and sent on: 1 to 128 letters, digits and `._:/+=@-`; else 32 hex digits."""
    return given if given is not None and _FIT_ID(given) else f"{random.getrandbits(128):032x}"


def timing_entry(phase: str, milliseconds: float, description: str = "") -> str:
    """One entry of a `Server-Timing` header: `activate;dur=12.345;desc="predictor"`."""
    entry = f"{phase};dur={milliseconds:.3f}"
    return f'{entry};desc="{description}"' if description else entry


def server_timing(phases: Mapping[str, float]) -> str:
    """The whole header of phases with their milliseconds."""
    return ", ".join(timing_entry(phase, milliseconds) for phase, milliseconds in phases.items())


class HttpAnswer:
    """`status`: of the answer once it has started, else 0. `client_gone`: nobody reads it any more. `cycle`: what is
    below ASGI, where this is a connection of `http_protocol`."""

    __slots__ = (
        "_cors",
        "_path",
        "_receive",
        "_scope",
        "_send",
        "body_unread",
        "client_gone",
        "closing",
        "cycle",
        "has_body",
        "headers",
        "raw_headers",
        "request_id",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, cors: CorsPolicy, path: str) -> None:
        """`path`: as the component has it that serves it, without an ingress's prefix."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._cors = cors
        self._path = path
        self.cycle: HttpCycle | None = scope.get(CYCLE)
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if len(self.headers) < len(self.raw_headers):
            self.headers = joined_headers(self.raw_headers)
        self.request_id = request_id(self.headers.get("x-request-id"))
        self.status = 0
        self.client_gone = False
        self.closing = False
        self.has_body = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"
        self.body_unread = self.has_body or scope["method"] == "POST"

    @property
    def style(self) -> ErrorStyle:
        """How errors look to who asks at this path."""
        return style_of_path(self._path)

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

    @property
    def small_body_is_here(self) -> bool:
        """All of it came with its head, and so little that it does not matter whose it is."""
        cycle = self.cycle
        return (
            cycle is not None
            and cycle.body_is_here
            and cycle.body_bytes <= _SMALL_BODY_BYTES
            and "content-encoding" not in self.headers
        )

    async def body(self, bounds: EdgeBounds, held: HeldBytes) -> bytes:
        """As `read_body`; a body that came with its head is taken without waiting."""
        whole = None if self.cycle is None else self.cycle.whole_body()
        if whole is None:
            return await read_body(self.receive, self.headers, bounds, held)
        self.body_unread = False
        if len(whole) > bounds.max_body_bytes:
            raise _too_large(bounds.max_body_bytes)
        held.take(len(whole))
        return await _unpacked(whole, self.headers, bounds.max_body_bytes, held)

    async def start(self, status: int, headers: RawHeaders) -> None:
        """`headers`: beside the request id, CORS and `connection`, which are added here."""
        said = [(b"x-request-id", self.request_id.encode("ascii")), *headers]
        if "origin" in self.headers:
            said += _raw(self._cors.answer_headers(self.headers))
        if self.closing:
            said.append((b"connection", b"close"))
        await self.pass_on(status, said)

    async def pass_on(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Start with these headers and no others: another server's answer, whose headers are its own affair."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def pieces(self, events: AsyncIterator[bytes]) -> None:
        """All that is left of `events`."""
        if self.cycle is not None:
            await pour(events, self.cycle)
            return
        async for piece in events:
            await self.piece(piece)

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

    async def options(self, methods: str) -> bool:
        """Answer a preflight, or `OPTIONS *` with the `methods` that this server knows; False when it is neither."""
        said = self._cors.preflight_headers(self._scope["method"], self.headers)
        if said is None:
            if self._path != SERVER_WIDE:
                return False
            said = {"allow": methods}
        await self.reply(204, "", b"", _raw(said))
        return True

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
        if error.code is not None:
            said.append((CODE_HEADER.encode("ascii"), error.code.encode("ascii")))
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


def joined_headers(raw: RawHeaders) -> dict[str, str]:
    """Different values of one name as one list (RFC 9110 section 5.3): none of them wins in silence."""
    values: dict[str, dict[str, None]] = {}
    for name, value in raw:
        values.setdefault(name.decode("latin-1"), {})[value.decode("latin-1")] = None
    return {name: ", ".join(said) for name, said in values.items()}


def _raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]


class BodyStalled(PilotlightError):
    http_status, grpc_code, openai_type = 408, 4, "timeout_error"


class BodyAborted(Exception):
    """The client closed the connection before its body was whole."""


async def read_body(receive: Receive, headers: Mapping[str, str], bounds: EdgeBounds, held: HeldBytes) -> bytes:
    """The whole unpacked body, within a size, a pause between pieces, a rate and a time in all."""
    limit_bytes, pace = bounds.max_body_bytes, _Pace(bounds)
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    pieces = bytearray()
    more = True
    while more:
        message = await _next_piece(receive, pace.wait_s(len(pieces)))
        piece, more = message.get("body", b""), message.get("more_body", False)
        if len(pieces) + len(piece) > limit_bytes:
            raise _too_large(limit_bytes)
        held.take(len(piece))
        if not more and not pieces:
            return await _unpacked(piece, headers, limit_bytes, held)
        pieces += piece
    return await _unpacked(bytes(pieces), headers, limit_bytes, held)


class _Pace:
    """How long the next piece of a body may take, so that nobody holds a place by a byte now and then."""

    def __init__(self, bounds: EdgeBounds) -> None:
        self._bounds = bounds
        self._now_s = asyncio.get_running_loop().time
        self._started_s = self._now_s()

    def wait_s(self, received_bytes: int) -> float:
        """Raises BodyStalled."""
        bounds, past_s = self._bounds, self._now_s() - self._started_s
        most_s = min(bounds.body_timeout_s, bounds.body_stall_timeout_s + received_bytes / bounds.min_body_bytes_s)
        if past_s >= most_s:
            raise BodyStalled(f"{received_bytes} bytes of the body arrived within {most_s:g} s; send it faster")
        return min(bounds.body_stall_timeout_s, most_s - past_s)


async def _unpacked(body: bytes, headers: Mapping[str, str], limit_bytes: int, held: HeldBytes) -> bytes:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("identity", ""):
        return body
    if coding not in ("gzip", "deflate"):
        raise UnsupportedMediaType(f"Content-Encoding '{coding}' is not spoken here; send gzip, deflate or none")
    if len(body) < _UNPACK_IN_THREAD_BYTES:
        unpacked = unpack(body, coding, limit_bytes)
    else:
        unpacked = await asyncio.to_thread(unpack, body, coding, limit_bytes)
    held.take(len(unpacked))
    return unpacked


async def body_pieces(receive: Receive, stall_timeout_s: float, chunked: bool) -> AsyncIterator[bytes]:
    """The body as it arrives, to be sent on; `chunked`: each piece framed as a chunk (RFC 9112 section 7.1)."""
    more = True
    while more:
        message = await _next_piece(receive, stall_timeout_s)
        piece, more = message.get("body", b""), message.get("more_body", False)
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"


async def _next_piece(receive: Receive, stall_timeout_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await receive()
    except TimeoutError:
        raise BodyStalled(f"no part of the body arrived for {stall_timeout_s:g} s; send the request again") from None
    if message["type"] == "http.disconnect":
        raise BodyAborted
    return message


def unpack(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """Undo `coding` (gzip, or deflate with or without its zlib header)."""
    window_bits = 31 if coding == "gzip" else 15
    if coding == "deflate" and (len(body) < 2 or body[0] & 0x0F != 8 or (body[0] << 8 | body[1]) % 31):
        window_bits = -15
    engine = zlib.decompressobj(window_bits)
    try:
        unpacked = engine.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {coding}: {error}") from None
    if len(unpacked) > limit_bytes:
        raise _too_large(limit_bytes)
    if not engine.eof or engine.unused_data:
        raise InvalidInput(f"the body is not valid {coding}: it is cut short or has trailing bytes")
    return unpacked


def pack(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """`body` in the first coding of gzip and deflate that the client takes, and its name; unchanged when none."""
    wanted = {}
    for item in accept_encoding.lower().split(","):
        name, _, quality = item.strip().partition(";")
        wanted[name.strip()] = quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    for coding, window_bits in (("gzip", 31), ("deflate", 15)):
        if wanted.get(coding):
            engine = zlib.compressobj(1, zlib.DEFLATED, window_bits)
            return engine.compress(body) + engine.flush(), coding
    return body, None


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes, the most this server takes")
