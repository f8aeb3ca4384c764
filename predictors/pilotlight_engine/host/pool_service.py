"""What the engine thread of a pool's host does with the agent's and the lease's frames. It must not know sockets' fds.

    booted ── Grant ──▶ granted ── Joined ──▶ held ── Revoke, Swap, Grant ──▶ granted to the next, or to nobody

One lease at a time. Its requests run under numbers of our own, so that what an old connection asked for can never be
answered on a new one. A tenant's keys, values and metrics are gone before the next tenant is let in.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pilotlight_engine.errors import SwapBroken, SwapNotPossible
from pilotlight_engine.host.pool_link import FromLease, Joined, LeaseLink, Left, PoolItem, PoolLink
from pilotlight_protocol.engine_frames import (
    Abort,
    AgentFrame,
    Busy,
    Canary,
    Check,
    Checked,
    ControlFrame,
    EngineInfo,
    EngineStats,
    Failed,
    Generate,
    GenerateRequest,
    Grant,
    Granted,
    Idle,
    LeaseFrame,
    LeaseHostFrame,
    Refused,
    Rejected,
    Revoke,
    Revoked,
    Shutdown,
    Sleep,
    Slept,
    Stats,
    StatsReport,
    Step,
    Swap,
    SwapFailed,
    Swapped,
    SwapRefused,
    Wake,
    Welcome,
    Woken,
    encode,
)
from pilotlight_protocol.errors import NotSupported, PilotlightError, Unavailable
from pilotlight_protocol.generation import TokenDelta

_LAST_WORDS_DEADLINE_S = 0.2
# Far less than an agent waits for an answer to its Revoke: a holder that does not read must not cost the engine.
_HOLDER_STALL_S = 1.0


class SwapReport(Protocol):
    @property
    def phases_s(self) -> dict[str, float]: ...


class PoolEngine(Protocol):
    """The engine as the pool sees it: `VllmEngine`, or a fake of a test."""

    canary: Canary

    @property
    def can_sleep(self) -> bool: ...
    def add(self, stream: int, request: GenerateRequest) -> None: ...
    def abort(self, stream: int) -> None: ...
    def has_work(self) -> bool: ...
    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]: ...
    def stats(self) -> EngineStats: ...
    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo: ...
    def swap(self, model_dir: Path, model_name: str, loras: Sequence[tuple[str, str]]) -> SwapReport: ...
    def forget(self) -> None: ...
    def renew_metrics(self) -> None: ...
    def rename(self, model_name: str) -> None: ...
    def sleep(self, level: int) -> None: ...
    def wake(self) -> None: ...


class PoolService:
    """`serve` returns on Shutdown. Whatever it raises ends the process; nothing it holds may answer again."""

    def __init__(
        self,
        link: PoolLink,
        engine: PoolEngine,
        model_name: str,
        boot_phases_s: dict[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._engine = engine
        self._model_name = model_name
        self._boot_phases_s = boot_phases_s
        self._clock = clock
        self._generation = 0
        self._tenant: str | None = None
        self._lease: LeaseLink | None = None
        self._numbers = itertools.count(1)
        self._fronts_number: dict[int, int] = {}
        self._our_number: dict[int, int] = {}
        self._sent_stats = EngineStats()
        self._was_busy = False
        self._asleep = False

    def serve(self) -> None:
        """Handle frames between steps, step while there is work, sleep while there is none."""
        while True:
            for item in self._link.inbox.take(wait=not self._engine.has_work()):
                if isinstance(item, Shutdown):
                    self._end_lease("the engine is being shut down")
                    return
                self._handle(item)
            if self._engine.has_work():
                self._tell_edge()
                self._step()
            self._tell_edge()

    def _handle(self, item: PoolItem) -> None:
        match item:
            case FromLease(link, frame):
                if link is self._lease:
                    self._serve_lease(frame)
            case Joined(link):
                self._join(link)
            case Left(link):
                if link is self._lease:
                    self._drop_connection()
            case _:
                self._obey(item)

    def _obey(self, frame: AgentFrame) -> None:
        match frame:
            case Grant():
                self._grant(frame)
            case Revoke(lease_id, reason, reset):
                if self._link.grant is not None and self._link.grant.lease_id == lease_id:
                    self._end_lease(reason)
                if reset:
                    self._start_anew()
                self._tell(Revoked(lease_id))
            case Swap():
                self._swap(frame)
            case Sleep(level):
                self._sleep(level)
            case Wake():
                self._wake()
            case Stats(call):
                self._tell(self._report(call))
            case Check(call):
                self._tell(Checked(call))
            case _:
                self._tell(Rejected(type(frame).__name__, 400, "this frame makes no sense to a host that is running"))

    # ---- the lease

    def _grant(self, grant: Grant) -> None:
        self._end_lease("the engine was given to another lease")
        if self._tenant not in (None, grant.tenant):
            self._start_anew()
        if grant.model_name not in ("", self._model_name):
            self._model_name = grant.model_name
            self._engine.rename(grant.model_name)
        self._tenant = grant.tenant
        self._link.grant = grant
        self._tell(Granted(grant.lease_id))

    def _join(self, link: LeaseLink) -> None:
        if link.grant is not self._link.grant:
            link.end()
            return
        if self._lease is not None:
            self._drop_connection("another connection of the same lease took over")
        self._lease = link
        info = self._engine.describe(self._boot_phases_s)
        self._answer(Welcome(info, self._engine.stats(), self._model_name))

    def _serve_lease(self, frame: LeaseFrame) -> None:
        match frame:
            case Generate(stream, request):
                if self._asleep:
                    self._answer(Refused(stream, Unavailable.http_status, "the engine is asleep"))
                    return
                number = next(self._numbers)
                try:
                    self._engine.add(number, request)
                except PilotlightError as error:
                    self._answer(Refused(stream, error.http_status, error.message))
                else:
                    self._fronts_number[number], self._our_number[stream] = stream, number
            case Abort(stream):
                self._forget(stream, abort=True)
            case Check(call):
                self._answer(Checked(call))

    def _end_lease(self, reason: str) -> None:
        """Nobody is let in any more, nothing of the lease runs, its connection is closed."""
        self._link.grant = None
        self._drop_connection(reason)

    def _drop_connection(self, reason: str | None = None) -> None:
        lease = self._lease
        for stream in list(self._our_number):
            self._forget(stream, abort=True)
        while self._engine.has_work():
            self._engine.step()
        if lease is None:
            return
        if reason is not None:
            self._answer(Failed(reason))
            lease.outbox.drain(_LAST_WORDS_DEADLINE_S)
        lease.end()
        self._lease = None

    def _forget(self, stream: int, *, abort: bool = False) -> None:
        number = self._our_number.pop(stream, None)
        if number is not None:
            del self._fronts_number[number]
            if abort:
                self._engine.abort(number)

    def _start_anew(self) -> None:
        while self._engine.has_work():
            self._step()
        self._engine.forget()
        self._engine.renew_metrics()

    # ---- the engine

    def _step(self) -> None:
        deltas, failures = self._engine.step()
        ours = [(self._fronts_number[number], delta) for number, delta in deltas if number in self._fronts_number]
        stats = self._engine.stats()
        if ours or stats != self._sent_stats:
            self._answer(Step(ours, stats))
            self._sent_stats = stats
        for number, failure in failures:
            stream = self._fronts_number.get(number)
            self._engine.abort(number)
            if stream is not None:
                self._forget(stream)
                self._answer(Refused(stream, failure.http_status, failure.message))

    def _swap(self, swap: Swap) -> None:
        self._drain(swap.drain_s)
        began_s = self._clock()
        self._end_lease("the engine was given another model")
        drain_s = round(self._clock() - began_s, 6)
        try:
            if self._asleep:
                self._wake_up()
            report = self._engine.swap(Path(swap.model_dir), swap.model_name, swap.loras)
        except SwapNotPossible as error:
            self._tell(SwapRefused(swap.generation, error.message))
            return
        except SwapBroken as error:
            self._tell(SwapFailed(swap.generation, error.message))
            raise
        self._generation, self._model_name, self._tenant = swap.generation, swap.model_name, None
        info = self._engine.describe(self._boot_phases_s)
        self._tell(Swapped(swap.generation, {"drain": drain_s, **report.phases_s}, info, self._engine.canary))

    def _drain(self, drain_s: float) -> None:
        self._link.grant = None
        until_s = self._clock() + drain_s
        while self._engine.has_work() and self._clock() < until_s:
            self._step()

    def _sleep(self, level: int) -> None:
        if not self._engine.can_sleep:
            message = "this engine cannot sleep: it needs CUDA and the engine argument enable_sleep_mode"
            self._tell(Rejected("Sleep", NotSupported.http_status, message))
            return
        if not self._asleep:
            self._end_lease("the engine was put to sleep")
            self._engine.sleep(level)
            self._asleep = True
        self._tell(Slept(level))

    def _wake(self) -> None:
        if not self._engine.can_sleep:
            self._tell(Rejected("Wake", NotSupported.http_status, "this engine cannot sleep, so it is awake"))
            return
        if self._asleep:
            self._wake_up()
        self._tell(Woken())

    def _wake_up(self) -> None:
        self._engine.wake()
        self._asleep = False

    def _report(self, call: int) -> StatsReport:
        grant = self._link.grant
        return StatsReport(
            call=call,
            stats=self._engine.stats(),
            model_name=self._model_name,
            generation=self._generation,
            lease_id=grant.lease_id if grant is not None else None,
            connected=self._lease is not None,
            refused_hellos=self._link.refused_hellos,
            rss_bytes=_rss_bytes(),
        )

    # ---- answers

    def _tell_edge(self) -> None:
        busy = self._engine.has_work()
        if busy != self._was_busy:
            self._was_busy = busy
            self._tell(Busy() if busy else Idle())

    def _tell(self, frame: ControlFrame) -> None:
        self._link.control.send(encode(frame))

    def _answer(self, frame: LeaseHostFrame) -> None:
        lease = self._lease
        if lease is None or lease.ended:
            return
        if not lease.outbox.has_room(_HOLDER_STALL_S):
            sys.stderr.write(f"engine host: lease {lease.grant.lease_id} does not read; its connection is closed\n")
            lease.end()
            return
        try:
            lease.outbox.send(encode(frame), wait=False)
        except OSError:
            # The holder is gone: the socket thread is about to report it, and its requests end then.
            lease.end()


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
