"""An engine provider that leases from a warm pool instead of starting a process.

    idle ──ask (a thread)──▶ granted ──connect, name checked──▶ held ──┬─ released: connection closed, lease given back
      ▲                                                                └─ lost: connection closed by the host, or the
      └──────────── back-off after a failure ◀──────────────────────────  pool says 404 or 410 to a heartbeat

A heartbeat that nobody answers changes nothing: the engine's connection says whether the engine is there, and a
coordinator that comes back learns of the lease from its agent. Must not decide when an engine is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pilotlight_engine.contract import Engine
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.leasing import lease_client
from pilotlight_engine.leasing.engine_holder import LeaseNews
from pilotlight_engine.leasing.lease_client import Lease, LeaseAsk
from pilotlight_engine.leasing.lease_errors import LeaseEnded, LeaseRefused, WrongEngine
from pilotlight_engine.leasing.pool_http import Transport
from pilotlight_protocol import back_off
from pilotlight_protocol.errors import Forbidden, PilotlightError, Unauthorized, Unavailable

# A pool that restarts is back within a second or two, and requests are waiting.
BACK_OFF = back_off.BackOff(first_s=0.1, longest_s=5.0, forgotten_after_s=5.0)
CONNECT_DEADLINE_S = 10.0

_T = TypeVar("_T")
_log = logging.getLogger("pilotlight.lease")


class LeasedEngine(Engine, Protocol):
    """`model_name`: whose weights the host says it serves. `lose` fails what runs; `close` ends the connection."""

    model_name: str

    def lose(self, reason: str) -> None: ...

    async def close(self) -> None: ...


Connect = Callable[[Lease], Awaitable[LeasedEngine]]


@dataclass(frozen=True, slots=True)
class LeaseDeadlines:
    """How long an ask may take. `first_s`: until one was granted (nobody waits, and an engine may have to boot);
    `later_s`: afterwards."""

    first_s: float
    later_s: float


@dataclass
class _Held:
    lease: Lease
    engine: LeasedEngine
    heart: asyncio.Task[None]
    since_s: float


class LeaseProvider:
    """Implements `contract.EngineProvider` with at most one lease at a time. Belongs to one event loop.

    `new_ask` makes an ask for one lease that may take so many seconds; `first` is one that already runs, with its
    result. `model_name`: the only name that may be served.
    """

    def __init__(
        self,
        model_name: str,
        new_ask: Callable[[float], LeaseAsk],
        deadlines: LeaseDeadlines,
        transport: Callable[[], Transport],
        connect: Connect,
        first: tuple[LeaseAsk, Future[Lease]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = "idle"
        self.news = LeaseNews("", {})
        self._model_name = model_name
        self._new_ask = new_ask
        self._deadlines = deadlines
        self._transport = transport
        self._connect = connect
        self._first = first
        self._clock = clock
        self._failures = back_off.Failures()
        self._held: _Held | None = None
        self._asking: LeaseAsk | None = None
        self._watcher: Callable[[bool], None] = lambda elsewhere: None

    def watch(self, tell: Callable[[bool], None]) -> None:
        """`tell`, in the loop, whether another lease of the endpoint has an engine while one is asked for here."""
        self._watcher = tell

    async def acquire(self) -> Engine:
        """Raises Unavailable in one of its forms of `lease_errors` (try again), EngineMisconfigured (it never will).

        A key that is refused is the spec's fault before the first lease, and for a while the pool's after it.
        """
        if self._held is not None:
            raise Unavailable("this predictor's lease is in use")
        try:
            return await self._acquire()
        except PilotlightError as error:
            self._note_failure(0.0)
            if error.retryable:
                raise
            if self._had_one and isinstance(error, (Unauthorized, Forbidden)):
                raise LeaseRefused(
                    f"{error.message} (it granted one before, so it is asked again: are its lease keys being changed?)",
                    retry_after_s=BACK_OFF.longest_s,
                ) from error
            raise EngineMisconfigured(error.message) from error
        finally:
            self.phase = "idle" if self._held is None else "held"

    async def release(self, engine: Engine) -> None:
        held = self._held
        if held is None or engine is not held.engine:
            return
        self._held = None
        self.phase = "idle"
        held.heart.cancel()
        await asyncio.wait({held.heart})
        if held.engine.lost.done():
            self._note_failure(self._clock() - held.since_s)
        else:
            self._failures = back_off.Failures()
        with contextlib.suppress(PilotlightError):
            await held.engine.close()
        await self._give_back(held.lease)

    async def check_pool(self) -> None:
        """Raises PoolUnreachable."""
        await self._in_thread(lambda: lease_client.check(self._transport()))

    async def _acquire(self) -> Engine:
        delay_s = self._failures.wait_s(self._clock())
        if delay_s > 0:
            self.phase = f"back-off of {delay_s:.1f} s after {self._failures.count} failures"
            await asyncio.sleep(delay_s)
        self.phase = "lease"
        lease = await self._lease()
        self.phase = "connect"
        try:
            engine = await self._connected(lease)
        except BaseException:
            await asyncio.shield(self._give_back(lease))
            raise
        heart = asyncio.create_task(self._beat(lease, engine), name="lease-heartbeat")
        self._held = _Held(lease, engine, heart, self._clock())
        self.news = LeaseNews(lease.path, lease.phases_s, lease.content)
        return engine

    async def _lease(self) -> Lease:
        first, self._first = self._first, None
        ask, future = first if first is not None else lease_client.begin(self._new_ask(self._deadline_s()))
        loop, self._asking = asyncio.get_running_loop(), ask

        def hear(elsewhere: bool) -> None:
            loop.call_soon_threadsafe(self._heard, ask, elsewhere)

        ask.watch(hear)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            ask.cancel()
            future.add_done_callback(self._give_back_unheard)
            raise
        finally:
            self._asking = None
            self._watcher(False)

    def _heard(self, ask: LeaseAsk, elsewhere: bool) -> None:
        if ask is self._asking:
            self._watcher(elsewhere)

    @property
    def _had_one(self) -> bool:
        return bool(self.news.path)

    def _deadline_s(self) -> float:
        return self._deadlines.later_s if self._had_one else self._deadlines.first_s

    def _give_back_unheard(self, future: Future[Lease]) -> None:
        """Granted in the moment in which the ask was cancelled."""
        if not future.cancelled() and future.exception() is None:
            lease_client.give_back(self._transport(), future.result().lease_id)

    async def _connected(self, lease: Lease) -> LeasedEngine:
        engine = await self._connect(lease)
        if engine.model_name == self._model_name:
            return engine
        await engine.close()
        raise WrongEngine(
            f"the warm pool lent an engine that serves '{engine.model_name}', not '{self._model_name}'; it is not used"
        )

    async def _beat(self, lease: Lease, engine: LeasedEngine) -> None:
        while True:
            await asyncio.sleep(lease.expires_s / 3)
            try:
                await self._in_thread(lambda: lease_client.renew(self._transport(), lease.lease_id))
            except LeaseEnded as ended:
                engine.lose(f"the lease has ended: {ended.message}")
                return
            except PilotlightError as error:
                _log.warning("heartbeat: %s", error.message)

    async def _give_back(self, lease: Lease) -> None:
        await self._in_thread(lambda: lease_client.give_back(self._transport(), lease.lease_id))

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.to_thread(call)

    def _note_failure(self, ran_s: float) -> None:
        self._failures = back_off.failed(BACK_OFF, self._failures, self._clock(), ran_s)
