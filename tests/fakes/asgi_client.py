"""Asks an ASGI app in memory, as `http_protocol` would: whole or piece by piece, and may leave in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pilotlight_wire.http_protocol import DISCONNECT


@dataclass
class Answered:
    """`pieces`: of the body as they were sent; `ended`: the last one has been."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def ask(
    app: Any,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    pieces: Sequence[bytes] | None = None,
    leave_when: Callable[[Answered], bool] | None = None,
) -> Answered:
    """`pieces`: instead of `body`; after the last one nothing comes any more, as from a client that stalls."""
    answered = Answered()
    given = {"host": "test", **(headers or {})}
    if body and "content-length" not in given:
        given["content-length"] = str(len(body))
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    if pieces is not None:
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            names = [name for name, _ in message["headers"]]
            assert len(names) == len(set(names)), f"a header twice, which a client joins with a comma: {names}"
            answered.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            answered.pieces.append(message.get("body", b""))
            answered.ended = not message.get("more_body", False)
        if leave_when is not None and leave_when(answered):
            scope[DISCONNECT]()
            await asyncio.sleep(0)

    await app(scope, receive, send)
    return answered
