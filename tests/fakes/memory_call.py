"""One gRPC call without a connection: bytes go in and come out as gRPC's core would pass them on."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio


class MemoryCall:
    """`messages` are serialized requests, or an iterator that gives them when it likes. `code` None: not aborted.
    `deadline_s`: from now on, as its client has set it."""

    def __init__(self, *messages: bytes, metadata: Iterable[tuple[str, str | bytes]] = ()) -> None:
        self.messages: AsyncIterator[bytes] = _each(messages)
        self.written: list[bytes] = []
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.deadline_s = math.inf
        self._metadata = tuple(metadata)
        self._trailing: tuple[tuple[str, str], ...] = ()

    @property
    def trailing(self) -> dict[str, str]:
        return dict(self._trailing)

    def time_remaining(self) -> float:
        return self.deadline_s

    def invocation_metadata(self) -> Any:
        return self._metadata

    def trailing_metadata(self) -> Any:
        return self._trailing

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str], ...]) -> None:
        self._trailing = trailing

    async def write(self, message: Any) -> None:
        self.written.append(message.SerializeToString())

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        self.code, self.details, self._trailing = code, details, tuple(trailing)
        raise grpc.aio.AbortError

    async def run(self, services: Any, method: str) -> bytes:
        """What a unary method answers, b"" when it aborts. `method`: with its service."""
        found = services.service(SimpleNamespace(method=f"/{method}", invocation_metadata=()))
        assert found is not None, f"{method} is not served"
        asked = (found.request_deserializer(message) async for message in self.messages)
        try:
            if found.stream_unary is not None:
                return bytes(found.response_serializer(await found.stream_unary(asked, self)))
            behaviour = found.stream_stream or found.unary_stream
            await behaviour(asked if found.stream_stream else await anext(asked), self)
        except grpc.aio.AbortError:
            pass
        return b""


async def _each(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
