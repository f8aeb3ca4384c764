"""The activator of one revision: holds its requests until a ready pod has room for them.

Bounded, first come first served, with a deadline for everyone who waits. Requests that wait or run are the revision's
concurrency. Must not: start or stop pods, know HTTP, or decide about scale (it pokes through `on_demand`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from random import Random

from pilotlight_protocol.errors import PilotlightError

from pilotlight_local.activator_balancing import choose_pod
from pilotlight_local.errors import ActivationTimeout, QueueFull

QUEUE_DEPTH = 10_000
"""Knative's activator breaker depth per revision."""

QUEUE_FULL_RETRY_AFTER_S = 1.0


class Backend:
    """A pod as the activator sees it: an address and what it works on."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.in_flight = 0
        self.on_drain: set[Callable[[], None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> None:
        """One more request runs here."""
        self.in_flight += 1
        self._idle.clear()

    def give_back(self) -> None:
        """One request less runs here."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns when nothing runs here."""
        await self._idle.wait()


class Activator:
    """Admission to the pods of one revision; `acquire` and `release` bracket every request."""

    def __init__(
        self,
        revision: str,
        container_concurrency: int,
        rng: Random,
        on_demand: Callable[[], None],
        on_change: Callable[[int], None],
        queue_depth: int = QUEUE_DEPTH,
    ) -> None:
        """Args:
        on_demand: called when a request has to wait: the autoscaler should look at once.
        on_change: called with +1 and -1 as the concurrency (waiting and running requests) changes.
        """
        self.revision = revision
        self._container_concurrency = container_concurrency
        self._rng = rng
        self._on_demand = on_demand
        self._on_change = on_change
        self._queue_depth = queue_depth
        self._ready: list[Backend] = []
        self._waiting: OrderedDict[asyncio.Future[Backend], None] = OrderedDict()
        self._running = 0
        self._cursor = 0

    @property
    def queued(self) -> int:
        """Requests that wait for a pod."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that a pod works on."""
        return self._running

    async def acquire(self, deadline_s: float) -> Backend:
        """The pod that takes this request; give it back with `release`.

        Args:
            deadline_s: loop time when the request's own time is over.

        Raises QueueFull, ActivationTimeout, or what `fail_waiting` was called with.
        """
        if not self._waiting and (backend := self._pick()) is not None:
            self._on_change(1)
            return self._start(backend)
        if len(self._waiting) >= self._queue_depth:
            raise QueueFull(
                f"{self.revision} holds {len(self._waiting)} requests already; try again in a moment",
                retry_after_s=QUEUE_FULL_RETRY_AFTER_S,
            )
        return await self._wait(deadline_s)

    async def _wait(self, deadline_s: float) -> Backend:
        place: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        self._on_change(1)
        try:
            self._on_demand()
            async with asyncio.timeout_at(deadline_s):
                return await place
        except BaseException as error:
            self._waiting.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                # The pod was granted in the very moment the client left or its time ended.
                self.release(place.result())
            else:
                self._on_change(-1)
            if isinstance(error, TimeoutError):
                raise ActivationTimeout(f"no pod of {self.revision} took the request before its timeout") from error
            raise

    def _pick(self) -> Backend | None:
        index = choose_pod(
            [backend.in_flight for backend in self._ready], self._container_concurrency, self._cursor, self._rng
        )
        if index is None:
            return None
        self._cursor = (index + 1) % len(self._ready)
        return self._ready[index]

    def _start(self, backend: Backend) -> Backend:
        backend.take()
        self._running += 1
        return backend

    def release(self, backend: Backend) -> None:
        """The request that `acquire` admitted has ended, in whatever way."""
        backend.give_back()
        self._running -= 1
        self._on_change(-1)
        self._admit_waiting()

    def join(self, backend: Backend) -> None:
        """Count one more request on a pod without asking for room (a further stream of a spliced connection)."""
        self._start(backend)
        self._on_change(1)

    def set_ready(self, backends: list[Backend]) -> None:
        """The pods that take requests from now on; the others finish what they have."""
        leaving = [backend for backend in self._ready if backend not in backends]
        self._ready = list(backends)
        self._cursor = 0
        self._ask_to_reconnect(leaving)
        self._admit_waiting()

    def ask_to_reconnect(self) -> None:
        """Traffic has moved: connections that carry many requests should be made anew for the next one."""
        self._ask_to_reconnect(self._ready)

    @staticmethod
    def _ask_to_reconnect(backends: list[Backend]) -> None:
        for backend in backends:
            for tell in list(backend.on_drain):
                tell()

    def _admit_waiting(self) -> None:
        while self._waiting and (backend := self._pick()) is not None:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_result(self._start(backend))

    def fail_waiting(self, make_error: Callable[[], PilotlightError]) -> None:
        """Answer everyone who waits with an error at once."""
        while self._waiting:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():
                place.set_exception(make_error())
