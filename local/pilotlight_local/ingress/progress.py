"""Progress lines for a client that asked for them: status 200 at once, comments while it waits, then the answer.

Must not: know how long anything takes; the route says.
"""

import asyncio
import json
from collections.abc import Callable

from pilotlight_local.ingress.pod_exchange import PodExchange
from pilotlight_protocol.error_bodies import ErrorStyle, error_event
from pilotlight_protocol.errors import PilotlightError, from_status
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.http_exchange import HttpAnswer

PERIOD_S = 1.0
LARGEST_WRAPPED_ANSWER_BYTES = 1 << 20

Progress = Callable[[], tuple[str, float | None]]


async def answer_with_progress(answer: HttpAnswer, exchange: PodExchange, progress: Progress) -> None:
    """Like `PodExchange.run`, for a client that rather sees comment lines than silence."""
    await answer.start(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")])
    lines = asyncio.create_task(_write_lines(answer, progress))
    try:
        async with exchange.upstream() as upstream:
            await _end(lines)
            await answer.piece(f": server-timing {exchange.held}\n\n".encode())
            if upstream.headers.get("content-type", "").partition(";")[0].strip() == "text/event-stream":
                await exchange.copy(upstream)
            else:
                await answer.end(_as_event(upstream.status, await _whole(upstream), answer.style))
    except PilotlightError as error:
        await _end(lines)
        await answer.piece(error_event(error, answer.style))
        await answer.end()
    finally:
        await _end(lines)


async def _write_lines(answer: HttpAnswer, progress: Progress) -> None:
    while True:
        phase, eta_s = progress()
        eta = "unknown" if eta_s is None else f"{eta_s:.0f}"
        await answer.piece(f": phase={phase} eta_s={eta}\n\n".encode())
        await asyncio.sleep(PERIOD_S)


async def _whole(upstream: HttpConnection) -> bytes:
    body = b""
    try:
        while len(body) < LARGEST_WRAPPED_ANSWER_BYTES and (piece := await upstream.read()):
            body += piece
    except (ConnectionLost, Silence):
        pass
    return body


def _as_event(status: int, body: bytes, style: ErrorStyle) -> bytes:
    """An answer that is no event stream, as one event."""
    text = body.decode(errors="replace")
    if status >= 400:
        try:
            message = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            message = text
        if style != "v2" and isinstance(message, str):
            return error_event(from_status(status, message), style)
        if style == "anthropic":
            return b"event: error\n" + _data(text)
        text = json.dumps({"error": message, "status": status})
    return _data(text)


def _data(text: str) -> bytes:
    return b"".join(f"data: {line}\n".encode() for line in text.splitlines()) + b"\n"


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
