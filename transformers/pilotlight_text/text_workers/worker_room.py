"""How much memory the workers of all texts may take together, and who makes room for whom.

Of those that are idle the least recently used ends first; where none is, whoever needs room waits, not without an end.
A process stands ready for the next text, as its start is a client's wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

from pilotlight_engine.process import limited_worker
from pilotlight_protocol.errors import Unavailable
from pilotlight_text.templates.limited_process import MIB, ProcessLimits
from pilotlight_text.templates.worker_connection import WorkerConnection, started

MOST_OF_ONE = ProcessLimits(cpu_s=0.0, wall_s=60.0, memory_bytes=1536 * MIB)
LARGE_AT_ONCE = 2
WAIT_S = 10.0
EMPTY_BYTES = 24 * MIB
"""Of a worker that holds nothing yet."""
LOADED_PER_BYTE = 12
"""Memory of a worker for each byte of its source, until it is measured."""

Start = Callable[[], Awaitable[WorkerConnection]]


class Held(Protocol):
    @property
    def is_idle(self) -> bool: ...

    def stop(self) -> None: ...


async def start_text_worker() -> WorkerConnection:
    return await started(
        limited_worker.command("pilotlight_text.text_workers.worker_main", MOST_OF_ONE.memory_bytes), MOST_OF_ONE
    )


class WorkerRoom:
    """`start` it beside the first who may use it, `close` it after all who do."""

    def __init__(self, max_bytes: int, start: Start = start_text_worker) -> None:
        self._max_bytes = max_bytes
        self._start = start
        self._bytes: OrderedDict[Held, int] = OrderedDict()
        self._changed: asyncio.Event | None = None
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._spares: list[asyncio.Task[WorkerConnection]] = []
        self._connections: set[WorkerConnection] = set()
        self._closed = False

    @property
    def in_use_bytes(self) -> int:
        return sum(self._bytes.values())

    async def start(self) -> None:
        self._have_spare()

    def _have_spare(self) -> None:
        """A process ahead of the next text."""
        if not self._spares and not self._closed:
            spare = asyncio.create_task(self._new(), name="a spare text worker")
            spare.add_done_callback(_look_at)
            self._spares.append(spare)

    async def connection(self) -> WorkerConnection:
        """A process that holds nothing yet. Raises Unavailable."""
        if self._closed:
            raise Unavailable("this server is shutting down; send the request again, another replica will answer")
        self._have_spare()
        spare = self._spares.pop()
        try:
            connection = await asyncio.shield(spare)
        except asyncio.CancelledError:
            self._spares.append(spare)  # it was nobody's yet
            raise
        except OSError as error:
            why = error.strerror or "it did not start"
            raise Unavailable(f"no process for the model's tokenizer: {why}; try again", retry_after_s=5) from error
        if connection.ended:
            return await self.connection()
        self._have_spare()
        return connection

    async def _new(self) -> WorkerConnection:
        connection = await self._start()
        self._connections = {other for other in self._connections if not other.ended} | {connection}
        return connection

    @contextlib.asynccontextmanager
    async def place(self, held: Held, source_bytes: int) -> AsyncIterator[None]:
        """Room to load so much inside. Raises Unavailable."""
        wanted = EMPTY_BYTES + LOADED_PER_BYTE * source_bytes
        await self.begin_large()
        try:
            await self._make_room(wanted)
            self._bytes[held] = wanted
            try:
                yield
            except BaseException:
                self.left(held)
                raise
        finally:
            self.end_large()

    async def begin_large(self) -> None:
        """Something that takes memory for a while; as few as these at a time. Raises Unavailable."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._large.acquire()
        except TimeoutError:
            raise Unavailable("too many tokenizers and long texts are being read; try again", retry_after_s=2) from None

    def end_large(self) -> None:
        self._large.release()

    async def _make_room(self, wanted: int) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + WAIT_S
        while self._bytes and self.in_use_bytes + wanted > self._max_bytes:
            idle = next((held for held in self._bytes if held.is_idle), None)
            if idle is not None:
                idle.stop()
                self._bytes.pop(idle, None)
                continue
            if self._changed is None:
                self._changed = asyncio.Event()
            try:
                async with asyncio.timeout(until_s - loop.time()):
                    await self._changed.wait()
            except TimeoutError:
                raise Unavailable("the memory for tokenizers is in use by others; try again", retry_after_s=2) from None

    def used(self, held: Held) -> None:
        if held in self._bytes:
            self._bytes.move_to_end(held)

    def measure(self, held: Held, connection: WorkerConnection) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = Path(f"/proc/{connection.pid}/statm").read_text(encoding="ascii").split()[1]
            self._bytes[held] = int(pages) * resource.getpagesize()

    def left(self, held: Held) -> None:
        self._bytes.pop(held, None)
        self.idle()

    def idle(self) -> None:
        """Somebody may have become idle, or has gone."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*self._spares, return_exceptions=True)  # soon; half started they were nobody's
        await asyncio.gather(*(connection.close() for connection in self._connections), return_exceptions=True)


def _look_at(task: asyncio.Task[WorkerConnection]) -> None:
    """Whoever wants it is told."""
    if not task.cancelled():
        task.exception()
