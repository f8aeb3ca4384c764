"""The calls of one spliced gRPC connection: each takes a place at the pod, or is held until there is one.

A held call is its frames, kept in order. Header blocks may not overtake each other, since HPACK's tables (RFC 7541)
are the connection's: while one call is held, those that the client opens later wait behind it, and data of the calls
that run passes. What is held is bounded by the flow-control window that the pod gives the client. A call has the
revision's timeout, waiting included, however little is said on it: then both ends are told, and its place is free.
Must not: read or make connections.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_local.activator.activator import Backend
from pilotlight_local.errors import ActivationTimeout
from pilotlight_local.ingress.routes import Route
from pilotlight_protocol.errors import PilotlightError
from pilotlight_wire.h2_frames import CANCEL, Frame, FrameType, reset_stream

_OPENING = (FrameType.HEADERS, FrameType.CONTINUATION)


@dataclass
class _HeldCall:
    frames: list[bytes]
    may_pass: bool = False
    waiting: "asyncio.Task[None] | None" = field(default=None, repr=False)


class StreamPlaces:
    """Belongs to one connection at one pod; `close` gives every place back.

    `write` sends frames to the pod; `refuse(call, error, answered)` ends the client's call with an error, after its
    answer has begun or before; `crowded` is called when a call has to wait here while another pod has room.
    """

    def __init__(
        self,
        route: Route,
        backend: Backend,
        write: Callable[[list[bytes]], None],
        refuse: Callable[[int, PilotlightError, bool], None],
        crowded: Callable[[], None],
    ) -> None:
        self._route = route
        self._backend = backend
        self._write = write
        self._refuse = refuse
        self._crowded = crowded
        self._placed: dict[int, asyncio.TimerHandle] = {}
        self._answered: set[int] = set()
        self._held: OrderedDict[int, _HeldCall] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def grant(self, stream_id: int, deadline_s: float) -> None:
        """This call has a place, until loop time `deadline_s`."""
        self._placed[stream_id] = self._loop.call_at(deadline_s, self._time_is_over, stream_id)

    def answered(self, stream_id: int) -> None:
        """The pod has begun to answer the call."""
        if stream_id in self._placed:
            self._answered.add(stream_id)

    def _time_is_over(self, stream_id: int) -> None:
        answered = stream_id in self._answered
        self.end(stream_id)
        self._write([reset_stream(stream_id, CANCEL)])
        timeout = ActivationTimeout(
            f"{self._route.revision} did not finish the call within its timeout of {self._route.timeout_s:.0f} s"
        )
        self._refuse(stream_id, timeout, answered)

    def pass_on(self, frame: Frame, change: int) -> None:
        """A frame of the client; `change`: 1 when it opens a call, -1 when it ends one (see `StreamLedger`)."""
        held = self._held.get(frame.stream_id)
        if held is not None:
            held.frames.append(frame.raw)
            if change < 0:
                # The pod must see the headers all the same, for its HPACK table.
                self._let_pass(held)
            return
        if change > 0 and frame.stream_id not in self._placed:
            if self._held or not self._take_place(frame.stream_id):
                self._hold(frame)
                return
        elif self._held and frame.kind in _OPENING:
            next(reversed(self._held.values())).frames.append(frame.raw)
            return
        if change < 0:
            self.end(frame.stream_id)
        self._write([frame.raw])

    def end(self, stream_id: int) -> None:
        """The call is over, by either side."""
        timer = self._placed.pop(stream_id, None)
        if timer is not None:
            timer.cancel()
            self._answered.discard(stream_id)
            self._route.activator.release(self._backend)

    def close(self) -> None:
        """The connection has ended."""
        for held in self._held.values():
            if held.waiting is not None:
                held.waiting.cancel()
        self._held.clear()
        for stream_id in list(self._placed):
            self.end(stream_id)

    def _take_place(self, stream_id: int) -> bool:
        if not self._route.activator.try_acquire_at(self._backend):
            return False
        self.grant(stream_id, self._loop.time() + self._route.timeout_s)
        return True

    def _hold(self, frame: Frame) -> None:
        held = self._held[frame.stream_id] = _HeldCall([frame.raw])
        held.waiting = self._loop.create_task(self._wait(frame.stream_id, held))
        if self._route.activator.has_room_beside(self._backend):
            self._crowded()

    async def _wait(self, stream_id: int, held: _HeldCall) -> None:
        deadline_s = self._loop.time() + self._route.timeout_s
        try:
            await self._route.activator.acquire_at(self._backend, deadline_s)
        except PilotlightError as error:
            self._refuse(stream_id, error, False)
            held.frames.append(reset_stream(stream_id, CANCEL))
        else:
            self.grant(stream_id, deadline_s)
        held.waiting = None
        self._let_pass(held)

    def _let_pass(self, held: _HeldCall) -> None:
        held.may_pass = True
        if held.waiting is not None:
            held.waiting.cancel()
        while self._held:
            stream_id, first = next(iter(self._held.items()))
            if not first.may_pass:
                return
            del self._held[stream_id]
            self._write(first.frames)
