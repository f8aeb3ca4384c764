"""What the predictor's server knows of an engine. No I/O, no vLLM, no torch is imported here.

The server asks an `EngineProvider` for an `Engine` and never learns whether it is a child process, a leased slot of a
warm pool, or a fake of a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from pilotlight_protocol.engine_frames import EngineInfo, EngineStats, GenerateRequest
from pilotlight_protocol.generation import TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolRequest

__all__ = [
    "DeltaStream",
    "Engine",
    "EngineInfo",
    "EngineProvider",
    "EngineStats",
    "GenerateRequest",
    "PoolRequest",
    "PooledVector",
]


class DeltaStream(Protocol):
    """One request's deltas as they come; `aclose` before their end aborts the request. An async generator is one."""

    def __aiter__(self) -> AsyncIterator[list[TokenDelta]]: ...

    def __anext__(self) -> Awaitable[list[TokenDelta]]: ...

    def aclose(self) -> Awaitable[None]: ...


class Engine(Protocol):
    """A running engine. Every method may raise Unavailable when it was lost; `lost` is then set with the reason,
    as clients may be told it."""

    info: EngineInfo
    stats: EngineStats
    lost: asyncio.Future[str]

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Token deltas as they come, coalesced while the reader is slow. Close what is not read to its end.

        It, or its first delta, raises InvalidInput (the engine refuses the request), Unavailable (it was lost).
        """
        ...

    async def pool(self, request: PoolRequest) -> PooledVector:
        """The vector of a prompt; cancelling it aborts the request. Raises as `generate`."""
        ...

    async def metrics(self) -> bytes:
        """vLLM's own Prometheus exposition (text format), labels and names unchanged."""
        ...

    async def check(self) -> None:
        """Return when the engine answers; raises Unavailable when it does not within the deadline."""
        ...


class EngineProvider(Protocol):
    """Where engines come from. `acquire` raises Unavailable with a reason a person can act on when there is none."""

    async def acquire(self) -> Engine: ...

    async def release(self, engine: Engine) -> None:
        """Give the engine back; a child process ends within the provider's grace period."""
        ...
