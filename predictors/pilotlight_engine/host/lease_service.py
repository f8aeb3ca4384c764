"""What the engine thread does with the leases' frames: whose request enters the engine, and who hears what of a step.

    Joined ──▶ holder, Welcome ── Generate ──▶ waiting ──▶ at work ──▶ Steps ── Left, or the lease ends ──▶ aborted

Several leases of one tenant may be granted beside each other, or of several tenants with an adapter each, with which
alone their requests run; `SharedBatch` lets them into the engine in turn. Requests run under numbers of our own, so
that what an old connection asked for can never be answered on a new one. It must not know sockets' fds, nor what the
agent wants (agent_commands.py).
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pilotlight_engine.host.host_sockets import FromLease, HostSockets, Joined, LeaseLink, Left
from pilotlight_protocol.engine_frames import (
    Abort,
    AgentFrame,
    Busy,
    Check,
    Checked,
    ControlFrame,
    EngineInfo,
    EngineRequest,
    EngineStats,
    Failed,
    Generate,
    Idle,
    LeaseFrame,
    LeaseHostFrame,
    Pool,
    Pooled,
    Refused,
    Shutdown,
    Step,
    Welcome,
)
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_protocol.frame_codec import encode
from pilotlight_protocol.generation import TokenDelta
from pilotlight_protocol.pooling import PooledVector

_REPORT_DEADLINE_S = 0.2


class BatchEngine(Protocol):
    """The engine as its leases use it: `VllmEngine`, or a fake of a test."""

    @property
    def batch_size(self) -> int: ...
    def add(self, stream: int, request: EngineRequest, adapter: str = "") -> None: ...
    def abort(self, stream: int) -> None: ...
    def has_work(self) -> bool: ...
    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]: ...
    def take_pooled(self) -> list[tuple[int, PooledVector]]: ...
    def stats(self) -> EngineStats: ...
    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo: ...


class LeaseService:
    """`model_name`: what the model is called now. `asleep`: requests are refused meanwhile. Both are the agent's."""

    def __init__(
        self, sockets: HostSockets, engine: BatchEngine, model_name: str, boot_phases_s: dict[str, float]
    ) -> None:
        self.model_name = model_name
        self.asleep = False
        self._sockets = sockets
        self._engine = engine
        self._boot_phases_s = boot_phases_s
        self._holders: dict[str, LeaseLink] = {}
        self._batch = SharedBatch(engine.batch_size)
        self._sent_stats: dict[str, EngineStats] = {}
        self._was_busy = False

    def serve(self, obey: Callable[[AgentFrame], None]) -> None:
        """Handle frames between steps, step while there is work, sleep while there is none; until Shutdown.

        `obey` is given the agent's commands.
        """
        while True:
            for item in self._sockets.inbox.take(wait=not self._engine.has_work()):
                match item:
                    case FromLease(link, frame):
                        if self._holders.get(link.grant.lease_id) is link:
                            self._serve_lease(link, frame)
                    case Joined(link):
                        self._join(link)
                    case Left(link):
                        if self._holders.get(link.grant.lease_id) is link:
                            self._drop_connection(link.grant.lease_id)
                    case Shutdown():
                        self.end_leases("the engine is being shut down")
                        return
                    case _:
                        obey(item)
            self._let_in()
            if self._engine.has_work():
                self._tell_edge()
                self.step()
            self._tell_edge()

    def describe(self) -> EngineInfo:
        return self._engine.describe(self._boot_phases_s)

    def tell(self, frame: ControlFrame) -> None:
        """To the agent."""
        self._sockets.control.send(encode(frame))

    def end_leases(self, reason: str) -> None:
        for lease_id in {**self._sockets.grants, **self._holders}:
            self.end_lease(lease_id, reason)

    def end_lease(self, lease_id: str, reason: str) -> None:
        """Its holder is let in no more, nothing of the lease runs, its connection is closed."""
        self._sockets.grants = {key: grant for key, grant in self._sockets.grants.items() if key != lease_id}
        self._drop_connection(lease_id, reason)

    def step(self) -> None:
        deltas, failures = self._engine.step()
        shares: dict[str, list[tuple[int, TokenDelta]]] = {lease_id: [] for lease_id in self._holders}
        for number, delta in deltas:
            if (asked := self._batch.asked_by(number)) is not None:
                shares[asked.lease_id].append((asked.stream, delta))
                if delta.finish_reason is not None:
                    self._batch.choice_ended(number)
        for lease_id, share in shares.items():
            stats = self._stats(lease_id)
            if share or stats != self._sent_stats.get(lease_id):
                self._answer(self._holders[lease_id], Step(share, stats))
                self._sent_stats[lease_id] = stats
        self._tell_pooled()
        for number, failure in failures:
            self._engine.abort(number)
            if (asked := self._batch.forget(number)) is not None:
                refused = Refused(asked.stream, failure.http_status, failure.message, failure.param)
                self._answer(self._holders[asked.lease_id], refused)

    def _tell_pooled(self) -> None:
        vectors: dict[str, list[tuple[int, PooledVector]]] = {}
        for number, vector in self._engine.take_pooled():
            if (asked := self._batch.forget(number)) is not None:
                vectors.setdefault(asked.lease_id, []).append((asked.stream, vector))
        for lease_id, share in vectors.items():
            self._answer(self._holders[lease_id], Pooled(share))

    def _join(self, link: LeaseLink) -> None:
        lease_id = link.grant.lease_id
        if link.grant is not self._sockets.grants.get(lease_id):
            link.end()
            return
        self._drop_connection(lease_id, "another connection of the same lease took over")
        self._holders[lease_id] = link
        named = link.grant.model_name if link.grant.adapter is not None else self.model_name
        self._answer(link, Welcome(self.describe(), self._stats(lease_id), named))

    def _serve_lease(self, link: LeaseLink, frame: LeaseFrame) -> None:
        match frame:
            case Generate(stream, request):
                self._ask(link, stream, request, request.parameters.n or 1)
            case Pool(stream, asked):
                self._ask(link, stream, asked)
            case Abort(stream):
                self._forget(link.grant.lease_id, stream)
            case Check(call):
                self._answer(link, Checked(call))

    def _ask(self, link: LeaseLink, stream: int, request: EngineRequest, choices: int = 1) -> None:
        if self.asleep:
            self._answer(link, Refused(stream, Unavailable.http_status, "the engine is asleep"))
            return
        self._batch.ask(link.grant.lease_id, stream, request, choices, request.parameters.priority)
        self._let_in()

    def _let_in(self) -> None:
        """Requests that wait here, in turn, as many as the engine can have at work."""
        while (turn := self._batch.next(alone=len(self._holders) < 2)) is not None:
            adapter = self._holders[turn.lease_id].grant.adapter
            try:
                self._engine.add(turn.number, turn.request, adapter.name if adapter is not None else "")
            except PilotlightError as error:
                self._batch.forget(turn.number)
                refused = Refused(turn.stream, error.http_status, error.message, error.param)
                self._answer(self._holders[turn.lease_id], refused)

    def _drop_connection(self, lease_id: str, reason: str | None = None) -> None:
        link = self._holders.pop(lease_id, None)
        if link is None:
            return
        self._sent_stats.pop(lease_id, None)
        for number in self._batch.leave(lease_id):
            self._engine.abort(number)
        while self._engine.has_work() and not self._batch.at_work:
            self._engine.step()
        if reason is not None:
            self._answer(link, Failed(reason))
            link.outbox.drain(_REPORT_DEADLINE_S)
        link.end()

    def _forget(self, lease_id: str, stream: int) -> None:
        number = self._batch.abort(lease_id, stream)
        if number is not None:
            self._engine.abort(number)

    def _stats(self, lease_id: str) -> EngineStats:
        """The engine as this holder finds it: others' requests take their part of it, and are not this one's queue."""
        stats = self._engine.stats()
        mine, waiting = self._batch.load(lease_id)
        if len(self._holders) < 2:
            return EngineStats(
                stats.running, stats.waiting + waiting, stats.kv_cache_usage, stats.generation_tokens_per_s
            )
        part = mine / max(1, self._batch.at_work)
        rate = stats.generation_tokens_per_s * (part or 1.0)
        queued = round(stats.waiting * part)
        return EngineStats(max(0, mine - queued), queued + waiting, stats.kv_cache_usage, rate)

    def _tell_edge(self) -> None:
        busy = self._engine.has_work()
        if busy != self._was_busy:
            self._was_busy = busy
            self.tell(Busy() if busy else Idle())

    def _answer(self, link: LeaseLink, frame: LeaseHostFrame) -> None:
        if link.ended:
            return
        if not link.outbox.has_room(link.stall_s):
            sys.stderr.write(f"engine host: lease {link.grant.lease_id} does not read; its connection is closed\n")
            link.end()
            return
        try:
            link.outbox.send(encode(frame), wait=False)
        except OSError:
            # The holder is gone: the socket thread is about to report it, and its requests end then.
            link.end()


@dataclass(frozen=True, slots=True)
class Asked:
    """`stream` is the holder's number for its request, `number` ours: never used twice. The lower
    `priority`, the earlier."""

    number: int
    lease_id: str
    stream: int
    request: EngineRequest
    choices: int = 1
    priority: int = 0


class SharedBatch:
    """Whose request enters the engine next, where several holders share its batch. Pure.

    Requests beyond what the engine can have at work (`size`) wait here, by holder, and holders take turns: one with a
    hundred waiting delays one with ten by one request each, not by a hundred. Each holder's own enter by priority, then
    in the order in which they came.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._last_number = 0
        self._waiting: OrderedDict[str, OrderedDict[int, Asked]] = OrderedDict()
        self._at_work: dict[int, Asked] = {}
        self._choices_left: dict[int, int] = {}
        self._numbers: dict[str, dict[int, int]] = {}

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def ask(self, lease_id: str, stream: int, request: EngineRequest, choices: int = 1, priority: int = 0) -> None:
        self._last_number += 1
        asked = Asked(self._last_number, lease_id, stream, request, choices, priority)
        self._waiting.setdefault(lease_id, OrderedDict())[stream] = asked

    def next(self, *, alone: bool = False) -> Asked | None:
        """The request that enters now; None while nothing waits or the batch is full. `alone`: there is nobody to share
        with, so nothing waits here: the engine's own queue knows priorities."""
        if not self._waiting or (len(self._at_work) >= self._size and not alone):
            return None
        lease_id, queue = next(iter(self._waiting.items()))
        asked = queue.pop(min(queue.values(), key=lambda each: (each.priority, each.number)).stream)
        if queue:
            self._waiting.move_to_end(lease_id)
        else:
            del self._waiting[lease_id]
        self._at_work[asked.number] = asked
        self._choices_left[asked.number] = asked.choices
        self._numbers.setdefault(lease_id, {})[asked.stream] = asked.number
        return asked

    def asked_by(self, number: int) -> Asked | None:
        return self._at_work.get(number)

    def choice_ended(self, number: int) -> None:
        """One of the choices that the request asked for; it is over with the last."""
        if number in self._choices_left:
            self._choices_left[number] -= 1
            if self._choices_left[number] <= 0:
                self.forget(number)

    def forget(self, number: int) -> Asked | None:
        """It is at work no more."""
        asked = self._at_work.pop(number, None)
        self._choices_left.pop(number, None)
        if asked is not None:
            numbers = self._numbers[asked.lease_id]
            if numbers.get(asked.stream) == number:
                del numbers[asked.stream]
            if not numbers:
                del self._numbers[asked.lease_id]
        return asked

    def abort(self, lease_id: str, stream: int) -> int | None:
        """The number under which the engine has it, which it must end; None where it does not."""
        queue = self._waiting.get(lease_id)
        if queue is not None and queue.pop(stream, None) is not None:
            if not queue:
                del self._waiting[lease_id]
            return None
        number = self._numbers.get(lease_id, {}).get(stream)
        if number is not None:
            self.forget(number)
        return number

    def leave(self, lease_id: str) -> tuple[int, ...]:
        """The holder is gone: nothing of it waits any more; what the engine must end."""
        self._waiting.pop(lease_id, None)
        numbers = tuple(self._numbers.get(lease_id, {}).values())
        for number in numbers:
            self.forget(number)
        return numbers

    def load(self, lease_id: str) -> tuple[int, int]:
        """(at work, waiting) of one holder."""
        return len(self._numbers.get(lease_id, ())), len(self._waiting.get(lease_id, ()))
