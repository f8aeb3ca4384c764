"""What the engine thread of a pool's host does with the agent's and the lease's frames. It must not know sockets' fds.

    booted ── Grant ──▶ granted ── Joined ──▶ held ── Revoke, Swap, Grant ──▶ granted to the next, or to nobody

Several leases of one tenant may be granted beside each other; `SharedBatch` lets their requests into the engine in
turn. Requests run under numbers of our own, so that what an old connection asked for can never be answered on a new
one. A tenant's keys, values and metrics are gone before the next tenant is let in.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pilotlight_engine.errors import SwapBroken, SwapNotPossible
from pilotlight_engine.host.pool_link import FromLease, Joined, LeaseLink, Left, PoolItem, PoolLink
from pilotlight_engine.host.shared_batch import SharedBatch
from pilotlight_protocol.engine_frames import (
    Abort,
    AgentFrame,
    Busy,
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
    SwapCheck,
    SwapFailed,
    Swapped,
    SwapRefused,
    Wake,
    Welcome,
    Woken,
)
from pilotlight_protocol.errors import NotSupported, PilotlightError, Unavailable
from pilotlight_protocol.frame_codec import encode
from pilotlight_protocol.generation import TokenDelta

_REPORT_DEADLINE_S = 0.2


class SwapReport(Protocol):
    @property
    def phases_s(self) -> dict[str, float]: ...


class PoolEngine(Protocol):
    """The engine as the pool sees it: `VllmEngine`, or a fake of a test."""

    swap_check: SwapCheck

    @property
    def can_sleep(self) -> bool: ...
    @property
    def batch_size(self) -> int: ...
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
    def close(self) -> None: ...


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
        self._holders: dict[str, LeaseLink] = {}
        self._batch: SharedBatch[GenerateRequest] = SharedBatch(engine.batch_size)
        self._sent_stats: dict[str, EngineStats] = {}
        self._was_busy = False
        self._asleep = False

    def serve(self) -> None:
        """Handle frames between steps, step while there is work, sleep while there is none."""
        while True:
            for item in self._link.inbox.take(wait=not self._engine.has_work()):
                if isinstance(item, Shutdown):
                    self._end_leases("the engine is being shut down")
                    self._engine.close()
                    return
                self._handle(item)
            self._let_in()
            if self._engine.has_work():
                self._tell_edge()
                self._step()
            self._tell_edge()

    def _handle(self, item: PoolItem) -> None:
        match item:
            case FromLease(link, frame):
                if self._holders.get(link.grant.lease_id) is link:
                    self._serve_lease(link, frame)
            case Joined(link):
                self._join(link)
            case Left(link):
                if self._holders.get(link.grant.lease_id) is link:
                    self._drop_connection(link.grant.lease_id)
            case _:
                self._obey(item)

    def _obey(self, frame: AgentFrame) -> None:
        match frame:
            case Grant():
                self._grant(frame)
            case Revoke(lease_id, reason, reset):
                self._end_lease(lease_id, reason)
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

    # ---- the leases

    def _grant(self, grant: Grant) -> None:
        if not grant.beside:
            self._end_leases("the engine was given to another lease")
        elif self._link.grants and self._tenant != grant.tenant:
            self._tell(Rejected("Grant", 409, "no lease is granted beside another tenant's"))
            return
        if self._tenant not in (None, grant.tenant):
            self._start_anew()
        if grant.model_name not in ("", self._model_name):
            self._model_name = grant.model_name
            self._engine.rename(grant.model_name)
        self._tenant = grant.tenant
        self._link.grants = {**self._link.grants, grant.lease_id: grant}
        self._tell(Granted(grant.lease_id))

    def _join(self, link: LeaseLink) -> None:
        lease_id = link.grant.lease_id
        if link.grant is not self._link.grants.get(lease_id):
            link.end()
            return
        self._drop_connection(lease_id, "another connection of the same lease took over")
        self._holders[lease_id] = link
        info = self._engine.describe(self._boot_phases_s)
        self._answer(link, Welcome(info, self._stats(lease_id), self._model_name))

    def _serve_lease(self, link: LeaseLink, frame: LeaseFrame) -> None:
        match frame:
            case Generate(stream, request):
                if self._asleep:
                    self._answer(link, Refused(stream, Unavailable.http_status, "the engine is asleep"))
                    return
                wanted = request.parameters
                self._batch.ask(link.grant.lease_id, stream, request, wanted.n or 1, wanted.priority)
                self._let_in()
            case Abort(stream):
                self._forget(link.grant.lease_id, stream)
            case Check(call):
                self._answer(link, Checked(call))

    def _let_in(self) -> None:
        """Requests that wait here, in turn, as many as the engine can have at work."""
        while (turn := self._batch.next(alone=len(self._holders) < 2)) is not None:
            try:
                self._engine.add(turn.number, turn.request)
            except PilotlightError as error:
                self._batch.forget(turn.number)
                self._answer(self._holders[turn.lease_id], Refused(turn.stream, error.http_status, error.message))

    def _end_leases(self, reason: str) -> None:
        for lease_id in {**self._link.grants, **self._holders}:
            self._end_lease(lease_id, reason)

    def _end_lease(self, lease_id: str, reason: str) -> None:
        """Its holder is let in no more, nothing of the lease runs, its connection is closed."""
        self._link.grants = {key: grant for key, grant in self._link.grants.items() if key != lease_id}
        self._drop_connection(lease_id, reason)

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

    def _start_anew(self) -> None:
        while self._engine.has_work():
            self._step()
        self._engine.forget()
        self._engine.renew_metrics()

    # ---- the engine

    def _step(self) -> None:
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
        for number, failure in failures:
            self._engine.abort(number)
            if (asked := self._batch.forget(number)) is not None:
                refused = Refused(asked.stream, failure.http_status, failure.message)
                self._answer(self._holders[asked.lease_id], refused)

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

    def _swap(self, swap: Swap) -> None:
        self._drain(swap.drain_s)
        began_s = self._clock()
        self._end_leases("the engine was given another model")
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
        self._tell(Swapped(swap.generation, {"drain": drain_s, **report.phases_s}, info, self._engine.swap_check))

    def _drain(self, drain_s: float) -> None:
        self._link.grants = {}
        until_s = self._clock() + drain_s
        while self._engine.has_work() and self._clock() < until_s:
            self._step()

    def _sleep(self, level: int) -> None:
        if not self._engine.can_sleep:
            message = "this engine cannot sleep: it needs CUDA and the engine argument enable_sleep_mode"
            self._tell(Rejected("Sleep", NotSupported.http_status, message))
            return
        if not self._asleep:
            self._end_leases("the engine was put to sleep")
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
        return StatsReport(
            call=call,
            stats=self._engine.stats(),
            model_name=self._model_name,
            generation=self._generation,
            lease_ids=list(self._link.grants),
            connected=len(self._holders),
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


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
