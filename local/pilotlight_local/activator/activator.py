"""The activator of one revision: holds its requests until a ready pod has room for them, and measures its load.

Bounded, first come first served, with a deadline for everyone who waits. Which pods are ready, and whether the
revision refuses requests, is told to it (`set_ready`, `refuse`). Must not: start or stop pods, know HTTP, or decide
about scale; that somebody waits is told through `on_demand`.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random

from pilotlight_local.errors import ActivationTimeout, QueueFull
from pilotlight_protocol.errors import PilotlightError

QUEUE_DEPTH = 10_000
"""Knative's activator breaker depth per revision."""

QUEUE_FULL_RETRY_AFTER_S = 1.0

FIRST_AVAILABLE_UP_TO = 3

MakeError = Callable[[float], PilotlightError]


class Backend:
    """A pod as the activator sees it: an address and what it works on."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.port = port
        self.in_flight = 0
        self.suspected = asyncio.Event()
        """It refused a connection, and has not shown since that it is ready."""
        self.peers: tuple[Backend, ...] = ()
        """The pods that take requests, this one among them."""
        self.on_drain: set[Callable[[], None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def can_be_spared(self) -> bool:
        """There are requests, and another pod to take them: this one should leave as soon as it is not ready."""
        return len(self.peers) > 1 and any(peer.in_flight for peer in self.peers)

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


class RequestMeter:
    """Time-weighted concurrency and request rate since the last report (Knative's RequestStats). Pure. `arrived` and
    `finished` bracket every request; one that waits counts as one that runs."""

    def __init__(self, now_s: float) -> None:
        self.concurrency = 0
        self._since_s = now_s
        self._changed_s = now_s
        self._weighted = 0.0
        self._requests = 0

    def arrived(self, now_s: float) -> None:
        self._advance(now_s)
        self.concurrency += 1
        self._requests += 1

    def finished(self, now_s: float) -> None:
        self._advance(now_s)
        self.concurrency -= 1

    def report(self, now_s: float) -> tuple[float, float]:
        """(average concurrency, requests per second), and begin the next period."""
        self._advance(now_s)
        period_s = now_s - self._since_s
        if period_s <= 0:
            return float(self.concurrency), 0.0
        average, rate = self._weighted / period_s, self._requests / period_s
        self._since_s, self._weighted, self._requests = now_s, 0.0, 0
        return average, rate

    def _advance(self, now_s: float) -> None:
        self._weighted += self.concurrency * max(0.0, now_s - self._changed_s)
        self._changed_s = now_s


class Activator:
    """Admission to the pods of one revision; `acquire` and `release` bracket every request."""

    def __init__(
        self,
        revision: str,
        container_concurrency: int,
        rng: Random,
        on_demand: Callable[[], None],
        queue_depth: int = QUEUE_DEPTH,
    ) -> None:
        """Args:
        on_demand: called when a request has to wait: the controller should look at once.
        """
        self.revision = revision
        self._now_s = asyncio.get_running_loop().time
        self.meter = RequestMeter(self._now_s())
        self._container_concurrency = container_concurrency
        self._rng = rng
        self._on_demand = on_demand
        self._queue_depth = queue_depth
        self._ready: tuple[Backend, ...] = ()
        self._why_none = ""
        self._refusal: tuple[float, MakeError] | None = None
        self._waiting: OrderedDict[asyncio.Future[Backend], int] = OrderedDict()
        self._waiting_at: dict[Backend, OrderedDict[asyncio.Future[Backend], int]] = {}
        self._arrivals = itertools.count()
        self.waiting_for_model = 0
        """Of the requests that wait, those that will need the component behind this one."""
        self._running = 0
        self._cursor = 0

    @property
    def has_ready(self) -> bool:
        """Whether any pod takes requests."""
        return bool(self._ready)

    @property
    def queued(self) -> int:
        """Requests that wait for a pod."""
        return len(self._waiting) + sum(map(len, self._waiting_at.values()))

    @property
    def running(self) -> int:
        """Requests that a pod works on."""
        return self._running

    async def acquire(self, deadline_s: float, needs_model: Callable[[], bool] = lambda: True) -> Backend:
        """The pod that takes this request; give it back with `release`.

        Args:
            deadline_s: loop time when the request's own time is over.
            needs_model: whether the pod will call the component behind it, which should wake beside it; asked only of a
                request that has to wait.

        Raises QueueFull, ActivationTimeout, or what `refuse` says.
        """
        if self._refusal is not None:
            until_s, make_error = self._refusal
            if (left_s := until_s - self._now_s()) > 0:
                raise make_error(left_s)
        if not self._waiting and (backend := self._pick()) is not None:
            self.meter.arrived(self._now_s())
            return self._start(backend)
        needs = needs_model()
        self.waiting_for_model += needs
        try:
            return await self._wait(self._waiting, deadline_s)
        finally:
            self.waiting_for_model -= needs

    def try_acquire_at(self, backend: Backend) -> bool:
        """Take a place at this very pod (a further call of a spliced connection) if it has one to spare."""
        if not self._has_room(backend) or self._waiting_at.get(backend):
            return False
        self.meter.arrived(self._now_s())
        self._start(backend)
        return True

    async def acquire_at(self, backend: Backend, deadline_s: float) -> None:
        """As `acquire`, at this very pod, which may be one that takes no other requests any more."""
        if not self.try_acquire_at(backend):
            await self._wait(self._waiting_at.setdefault(backend, OrderedDict()), deadline_s)

    def has_room_beside(self, backend: Backend) -> bool:
        """Whether another ready pod could take a request now."""
        return any(other is not backend and self._has_room(other) for other in self._ready)

    def _has_room(self, backend: Backend) -> bool:
        return self._container_concurrency == 0 or backend.in_flight < self._container_concurrency

    async def _wait(self, queue: OrderedDict[asyncio.Future[Backend], int], deadline_s: float) -> Backend:
        if self.queued >= self._queue_depth:
            raise QueueFull(
                f"{self.revision} holds {self.queued} requests already; try again in a moment",
                retry_after_s=QUEUE_FULL_RETRY_AFTER_S,
            )
        place: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        queue[place] = next(self._arrivals)
        self.meter.arrived(self._now_s())
        try:
            self._on_demand()
            async with asyncio.timeout_at(deadline_s):
                return await place
        except BaseException as error:
            queue.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                # The pod was granted in the very moment the client left or its time ended.
                self.release(place.result())
            else:
                self.meter.finished(self._now_s())
            if isinstance(error, TimeoutError):
                why = f"; its pod says: {self._why_none}" if self._why_none else ""
                raise ActivationTimeout(
                    f"no pod of {self.revision} took the request before its timeout{why}"
                ) from error
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
        self.meter.finished(self._now_s())
        self._admit_waiting()

    def suspect(self, backend: Backend) -> None:
        """The pod refused a connection: it takes nothing until it has shown again that it is ready."""
        backend.suspected.set()
        self.set_ready([other for other in self._ready if other is not backend])

    def set_ready(self, backends: Sequence[Backend], why_none: str = "") -> None:
        """The pods that take requests from now on; the others finish what they have. `why_none`: what a pod that is
        not ready says of it, for those whose time runs out."""
        self._why_none = why_none
        before, self._ready = self._ready, tuple(backends)
        if self._ready == before:
            return
        for backend in self._ready:
            backend.peers = self._ready
        leaving = [backend for backend in before if backend not in self._ready]
        self._cursor = 0
        self._ask_to_reconnect(leaving)
        self._admit_waiting()

    def ask_to_reconnect(self) -> None:
        """Traffic has moved: connections that carry many requests should be made anew for the next one."""
        self._ask_to_reconnect(self._ready)

    @staticmethod
    def _ask_to_reconnect(backends: Sequence[Backend]) -> None:
        for backend in backends:
            for tell in list(backend.on_drain):
                tell()

    def _admit_waiting(self) -> None:
        """Give what is free to those who can use it, first come first served."""
        while True:
            heads = [
                (next(iter(queue.values())), backend, queue)
                for backend, queue in self._waiting_at.items()
                if queue and self._has_room(backend)
            ]
            first = min(heads, key=lambda head: head[0], default=None)
            if self._waiting and (first is None or next(iter(self._waiting.values())) < first[0]):
                picked = self._pick()
                if picked is not None:
                    first = (0, picked, self._waiting)
            if first is None:
                break
            _, backend, queue = first
            place, _ = queue.popitem(last=False)
            if not place.done():
                place.set_result(self._start(backend))
        self._waiting_at = {backend: queue for backend, queue in self._waiting_at.items() if queue}

    def refuse(self, for_s: float, make_error: MakeError) -> None:
        """Answer everyone who waits, and who comes within `for_s`, with an error at once; it is made with the time
        that is left."""
        self._refusal = (self._now_s() + for_s, make_error)
        for queue in (self._waiting, *self._waiting_at.values()):
            while queue:
                place, _ = queue.popitem(last=False)
                if not place.done():
                    place.set_exception(make_error(for_s))

    def accept(self) -> None:
        """Whatever `refuse` said is over."""
        self._refusal = None


def choose_pod(in_flight: Sequence[int], container_concurrency: int, cursor: int, rng: Random) -> int | None:
    """Index of the pod to use, None when no pod has room. Pure.

    As Knative's activator: containerConcurrency 0 picks the less loaded of two random pods, 1 to 3 the first pod with
    room, more than 3 round-robin over pods with room.

    Args:
        in_flight: requests each ready pod works on, in a stable order.
        container_concurrency: most requests a pod takes at once; 0 means no limit.
        cursor: index after the pod that was used last (round-robin).
        rng: source of the random choice.
    """
    if not in_flight:
        return None
    count = len(in_flight)
    if container_concurrency == 0:
        if count == 1:
            return 0
        first, second = rng.sample(range(count), 2)
        return first if in_flight[first] <= in_flight[second] else second
    start = 0 if container_concurrency <= FIRST_AVAILABLE_UP_TO else cursor
    for offset in range(count):
        index = (start + offset) % count
        if in_flight[index] < container_concurrency:
            return index
    return None
