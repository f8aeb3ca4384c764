"""A few workers and those who wait for one: bounded in number, fair between keys, and never waiting without an end.

Starts workers when they are wanted and one for each that ended; must not know what they are asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.templates.worker_connection import WorkerConnection

MAX_WAITING = 256
MAX_WAITING_OF_KEY = 64
WAIT_S = 10.0

Start = Callable[[], Awaitable[WorkerConnection]]


class Lane:
    """At most `size` workers, of which one key has at most all but one."""

    def __init__(self, start: Start, size: int) -> None:
        self._start = start
        self._size = size
        self._per_key = max(1, size - 1)
        self._all: set[WorkerConnection] = set()
        self._idle: list[WorkerConnection] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._has: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[WorkerConnection]]] = []
        self._last_turn: dict[str, int] = {}
        self._turns = 0
        self._closed = False

    async def acquire(self, key: str) -> WorkerConnection:
        """A worker that is this key's until `give_back`. Raises Unavailable."""
        of_key = sum(waiting == key for waiting, _ in self._waiting)
        if len(self._waiting) >= MAX_WAITING or of_key >= MAX_WAITING_OF_KEY or self._closed:
            raise Unavailable("too many conversations wait to be rendered; try again", retry_after_s=1)
        place: asyncio.Future[WorkerConnection] = asyncio.get_running_loop().create_future()
        entry = (key, place)
        self._waiting.append(entry)
        self._serve()
        if place.done():
            return place.result()
        try:
            async with asyncio.timeout(WAIT_S):
                return await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.give_back(place.result(), key)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"no worker was free for {WAIT_S:g} s; try again", retry_after_s=1) from None
            raise

    def give_back(self, worker: WorkerConnection, key: str) -> None:
        self._has[key] -= 1
        if self._has[key] <= 0:
            del self._has[key]
        if worker.ended:
            self._all.discard(worker)
            self.start_one()  # beside the next one who comes, not while he waits
        else:
            self._idle.append(worker)
        self._serve()

    def start_one(self) -> None:
        if len(self._all) + len(self._starting) < self._size and not self._closed:
            task = asyncio.get_running_loop().create_task(self._start_worker())
            self._starting.add(task)

    async def _start_worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            worker = await self._start()
        except OSError as error:
            if not self._all:
                self._fail_all(f"no process to render conversations in: {error.strerror}; try again")
            return
        finally:
            self._starting.discard(task)
        self._all.add(worker)
        self._idle.append(worker)
        self._serve()

    def _serve(self) -> None:
        """Give idle workers to those who wait, in turn; start one where none is left for somebody."""
        while (entry := self._next()) is not None:
            worker = self._take_idle()
            if worker is None:
                self.start_one()
                return
            key, place = entry
            self._waiting.remove(entry)
            self._has[key] += 1
            self._turns += 1
            self._last_turn[key] = self._turns
            place.set_result(worker)
        if not self._waiting:
            self._last_turn.clear()

    def _next(self) -> tuple[str, asyncio.Future[WorkerConnection]] | None:
        """Of those who wait the first of the key whose turn is longest ago."""
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        served = [entry for entry in self._waiting if self._has[entry[0]] < self._per_key]
        return min(served, key=lambda entry: self._last_turn.get(entry[0], 0), default=None)

    def _take_idle(self) -> WorkerConnection | None:
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
            self._all.discard(worker)
        return None

    def _fail_all(self, why: str) -> None:
        for _, place in self._waiting:
            if not place.done():
                place.set_exception(Unavailable(why, retry_after_s=5))

    async def close(self) -> None:
        self._closed = True
        self._fail_all("this server is shutting down; send the request again, another replica will answer")
        await asyncio.gather(*self._starting, return_exceptions=True)  # soon; half started they were nobody's
        await asyncio.gather(*(worker.close() for worker in self._all), return_exceptions=True)
