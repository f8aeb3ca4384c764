"""One text's worker as the server holds it: asked one thing at a time, in turn, and started again where it has ended.

It must not know who asks. A client that goes leaves what it asked to end by itself, and the worker whole.
"""

from __future__ import annotations

import asyncio
import zlib
from functools import partial

import msgspec

from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_text.templates.limited_process import MIB, ProcessEnded, ProcessLimits
from pilotlight_text.templates.worker_connection import WorkerConnection
from pilotlight_text.templates.worker_main import TEXT
from pilotlight_text.text_workers.worker_jobs import LIMITS, LOAD, LoadedTokens
from pilotlight_text.text_workers.worker_room import WorkerRoom
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError

LOAD_LIMITS = ProcessLimits(cpu_s=10.0, wall_s=60.0, memory_bytes=1024 * MIB)
MOST_WAITING = 256
WAIT_S = 10.0
_LARGE_BYTES = 256 * 1024

_tokens = msgspec.msgpack.Decoder(LoadedTokens).decode


class LoadRefused(TokenizerFilesError):
    """Nothing of this machine is in the message: a client may see it."""


class TextWorker:
    """`source`: an encoded `TextSource`. `close` it."""

    def __init__(self, room: WorkerRoom, source: bytes) -> None:
        self._room = room
        self._source: bytes | None = source
        self._kept = b""
        self._connection: WorkerConnection | None = None
        self._starting: asyncio.Task[LoadedTokens] | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._closed = False

    @property
    def is_idle(self) -> bool:
        return not self._turn.locked() and self._starting is None

    @property
    def kept_bytes(self) -> int:
        """What is kept here of its source."""
        return len(self._kept)

    async def load(self) -> LoadedTokens:
        """What the text's tokens are. Raises LoadRefused, Unavailable (no room for a process now)."""
        return await asyncio.shield(self._start())

    async def ask(self, kind: bytes, job: bytes, limits: ProcessLimits, name: str) -> bytes:
        """The answer. `name`: of what is asked, for people. Raises InvalidInput (it met a limit), Unavailable."""
        large = len(job) > _LARGE_BYTES
        await self._take_turn()
        try:
            connection = await self._ready(large)
            answer = connection.ask(LIMITS.pack(limits.cpu_s, limits.memory_bytes) + kind + job, limits)
        except BaseException:
            self._turn.release()
            raise
        answer.add_done_callback(partial(self._answered, connection, large))
        try:
            return await asyncio.shield(answer)
        except ProcessEnded as stopped:
            if stopped.at_limit:
                raise InvalidInput(f"the model's {name} {stopped} on this text and was stopped") from stopped
            raise Unavailable(f"the process of the model's {name} ended; try again", retry_after_s=1) from stopped

    async def _ready(self, large: bool) -> WorkerConnection:
        """The process; where it is asked for something large, with the right to that. Raises Unavailable."""
        while (connection := self._connection) is None or connection.ended:
            try:
                await self.load()
            except LoadRefused as error:  # it could be loaded before
                raise Unavailable("the model's text cannot be loaded again; try again", retry_after_s=5) from error
        if large:
            await self._room.begin_large()
            if connection.ended:
                self._room.end_large()
                raise Unavailable("the process of the model's tokenizer ended; try again", retry_after_s=1)
        self._room.used(self)
        return connection

    async def _take_turn(self) -> None:
        if self._closed or self._waiting >= MOST_WAITING:
            raise Unavailable("too many texts wait for this model's tokenizer; try again", retry_after_s=1)
        if not self._turn.locked():
            await self._turn.acquire()
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(
                f"this model's tokenizer was busy with other texts for {WAIT_S:g} s; try again", retry_after_s=1
            ) from None
        finally:
            self._waiting -= 1

    def _answered(self, connection: WorkerConnection, large: bool, answer: asyncio.Future[bytes]) -> None:
        self._turn.release()
        if large:
            self._room.end_large()
        if answer.exception() is not None:
            self._ended(connection)
        elif large:
            self._room.measure(self, connection)
        self._room.idle()

    def _start(self) -> asyncio.Task[LoadedTokens]:
        if self._starting is None:
            self._starting = asyncio.create_task(self._loaded(), name="load a text")
            self._starting.add_done_callback(self._has_started)
        return self._starting

    def _has_started(self, task: asyncio.Task[LoadedTokens]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever waited is told; where all have left, nobody is
        self._room.idle()

    async def _loaded(self) -> LoadedTokens:
        source = self._source if self._source is not None else await asyncio.to_thread(zlib.decompress, self._kept)
        async with self._room.place(self, len(source)):
            connection = await self._room.connection()
            try:
                job = LIMITS.pack(LOAD_LIMITS.cpu_s, LOAD_LIMITS.memory_bytes) + LOAD + source
                tokens = _told(await connection.ask(job, LOAD_LIMITS))
            except BaseException as error:
                _end(connection)
                if isinstance(error, ProcessEnded):
                    raise LoadRefused(f"loading the model's tokenizer and templates {error}") from error
                raise
            self._connection = connection
            self._room.measure(self, connection)
        if self._source is not None:
            self._kept = await asyncio.to_thread(zlib.compress, source, 1)
            self._source = None
        return tokens

    def stop(self) -> None:
        """End the process; the next who asks starts another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _end(connection)
            self._room.left(self)

    def _ended(self, connection: WorkerConnection) -> None:
        if self._connection is connection:
            self._connection = None
            self._room.left(self)

    def close(self) -> None:
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        self.stop()


def _end(connection: WorkerConnection) -> None:
    if not connection.ended:  # another process may have its id by now
        connection.kill()


def _told(answer: bytes) -> LoadedTokens:
    if answer[:1] != TEXT:
        raise LoadRefused(answer[1:].decode("utf-8", "replace"))
    try:
        return _tokens(answer[1:])
    except msgspec.MsgspecError as error:
        raise LoadRefused("the model's tokenizer cannot be read") from error
