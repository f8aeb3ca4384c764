"""Holds the engine that the predictor serves with: acquires it, watches it, gets another when it is lost.

    wanted ──acquire, check──▶ held ──lost──▶ released ──▶ acquire again (a lent one: when there is work)
       ▲                        │ unload, or lent and without work for `idle_s`
       └── load, or work ── idle

An engine of our own is wanted always, and a request finds it or is refused. A lent one (`Lending`) is wanted while
there is work: requests wait for it, and the server stays ready without it, unless another pod of the endpoint has an
engine meanwhile: requests are that one's. The provider waits its own back-off between tries; an engine that can never
start ends `run` with EngineMisconfigured, and so the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pilotlight_engine.contract import Engine, EngineInfo, EngineProvider, EngineStats
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.leasing.lease_errors import LeaseRefused, PoolUnreachable, ServedElsewhere
from pilotlight_engine.leasing.metrics import BOOT_PHASE, ENGINE_HELD, ENGINES_LOST
from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_protocol.errors import PilotlightError, Unavailable

# A cold start on two CPU cores; the first boot of this process replaces it.
FIRST_BOOT_GUESS_S = 20.0
_RETRY_AFTER_MAX_S = 60.0
_RETRY_PAUSE_S = 1.0
_POOL_CHECK_PERIOD_S = 1.0

_log = logging.getLogger("pilotlight.engine")


class PhasedProvider(EngineProvider, Protocol):
    """A provider that says what it is doing now, in a word or two, for the answer to a client that comes too early."""

    @property
    def phase(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LeaseNews:
    """How the engine was got: `path` is the pool's word (loaded, swap, fork, boot), `phases_s` what it spent on it.
    `content` names the bytes it answers with."""

    path: str
    phases_s: Mapping[str, float]
    content: str = ""


@dataclass(frozen=True, slots=True)
class Lending:
    """`idle_s`: a lent engine without work for so long is given back. `wait_s`: how long a request waits for one.

    `check_pool` raises PoolUnreachable while the pool does not answer. `news`: of the lease acquired last. `watch`: has
    its argument told whether another pod of the endpoint has an engine while this one waits for its own.
    """

    idle_s: float
    wait_s: float
    check_pool: Callable[[], Awaitable[None]]
    news: Callable[[], LeaseNews]
    watch: Callable[[Callable[[bool], None]], None]


class EngineHolder:
    def __init__(self, provider: PhasedProvider, lending: Lending | None = None) -> None:
        self.content = ""
        """What the engine held last answers with, as the pool names it; "" where nobody says."""
        self._provider = provider
        self._lending = lending
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._info: EngineInfo | None = None
        self._tokens_per_s = 0.0
        self._loaded = True
        self._reachable = True
        self._wake = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._given_back = asyncio.Event()
        self._waiters: set[asyncio.Future[Engine]] = set()
        self._movable: set[asyncio.Future[Engine]] = set()
        self._elsewhere = False
        self._works = 0
        self._workless = asyncio.Event()
        self._workless_since = 0.0
        self._news: LeaseNews | None = None
        self._booting_since = self._loop.time()
        self._boot_s = FIRST_BOOT_GUESS_S
        self._last_failure = ""
        self._hopeless = ""
        if lending is not None:
            lending.watch(self._told_elsewhere)

    @property
    def held(self) -> bool:
        engine = self._engine
        return engine is not None and not engine.lost.done()

    @property
    def ready(self) -> bool:
        """Own engine: held. Lent: one was held and checked, the pool answers, no other pod has an engine instead."""
        if self._lending is None:
            return self.held
        usable = self._loaded and self._info is not None and not self._hopeless
        return usable and self._reachable and not self._elsewhere

    @property
    def first_wait_s(self) -> float:
        """How long a request that has no engine yet may wait for one."""
        return self._lending.wait_s if self._lending is not None else 0.0

    def measures(self) -> tuple[EngineInfo, EngineStats]:
        """What requests are measured by: of the engine, or of the last one when a request may wait for the next.

        Raises Unavailable that says what is being waited for.
        """
        engine = self._engine
        if engine is not None and not engine.lost.done():
            return engine.info, engine.stats
        if self._lending is None or self._info is None or not self._loaded or self._hopeless:
            raise self.why_not_held()
        return self._info, EngineStats(generation_tokens_per_s=self._tokens_per_s)

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """While inside, a lent engine is wanted and not given back."""
        self._works += 1
        self._workless.clear()
        self._wake.set()
        try:
            yield
        finally:
            self._works -= 1
            if not self._works:
                self._workless_since = self._loop.time()
                self._workless.set()

    async def engine(self, wait_s: float = 0.0, *, may_move: bool = False) -> Engine:
        """The engine, waiting for one at most so long. Raises Unavailable that says what is being waited for, or
        ServedElsewhere where the request `may_move` to a pod that has one."""
        engine = self._engine
        if engine is not None and not engine.lost.done():
            return engine
        if wait_s <= 0 or not self._loaded or self._hopeless or (may_move and self._elsewhere):
            raise self.why_not_held()
        waiter: asyncio.Future[Engine] = self._loop.create_future()
        self._waiters.add(waiter)
        if may_move:
            self._movable.add(waiter)
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except TimeoutError:
            raise self.why_not_held() from None
        finally:
            self._waiters.discard(waiter)
            self._movable.discard(waiter)

    def take_news(self) -> LeaseNews | None:
        """How the lent engine was got, to the first who asks."""
        news, self._news = self._news, None
        return news

    def why_not_held(self) -> Unavailable:
        if self._hopeless:
            return Unavailable(self._hopeless, retry_after_s=_RETRY_AFTER_MAX_S)
        if not self._loaded:
            return Unavailable(
                "the model is unloaded; POST /v2/repository/models/{model}/load brings it back", retry_after_s=30
            )
        if self._elsewhere:
            return ServedElsewhere("this pod waits for its lease, another pod of the endpoint has an engine")
        waited_s = self._loop.time() - self._booting_since
        left_s = min(_RETRY_AFTER_MAX_S, max(1.0, self._boot_s - waited_s))
        failure = f"; before that: {self._last_failure}" if self._last_failure else ""
        return Unavailable(
            f"the engine is starting ({self._provider.phase}, for {waited_s:.0f} s){failure}", retry_after_s=left_s
        )

    async def load(self) -> None:
        """Return when an engine is held; a lent one is given back again without work.

        Raises Unavailable that says why none is: unloaded meanwhile, none can ever start, or not in a request's time.
        """
        self._unwanted.clear()
        self._loaded = True
        until_s = self._loop.time() + REQUEST_TIMEOUT_S
        with self.work():
            while not self.held:
                left_s = until_s - self._loop.time()
                if left_s <= 0 or not self._loaded or self._hopeless:
                    raise self.why_not_held()
                with contextlib.suppress(Unavailable):
                    await self.engine(wait_s=left_s)

    async def unload(self) -> None:
        """Return when the engine is given back."""
        self._loaded = False
        self._unwanted.set()
        self._fail_waiters(self.why_not_held())
        await self._given_back.wait()

    async def run(self) -> None:
        """Hold an engine until cancelled; then it is released. Raises EngineMisconfigured when none can ever start."""
        while True:
            self._given_back.set()
            await self._until_wanted()
            self._given_back.clear()
            self._booting_since = self._loop.time()
            try:
                await self._hold_one()
            except EngineMisconfigured as error:
                self._hopeless = error.message
                self._fail_waiters(self.why_not_held())
                raise
            except PilotlightError as error:
                self._note_failure(error)
                if self._lending is None:
                    await asyncio.sleep(_RETRY_PAUSE_S)

    def _is_wanted(self) -> bool:
        if not self._loaded:
            return False
        return self._lending is None or bool(self._works) or self._info is None

    async def _until_wanted(self) -> None:
        while not self._is_wanted():
            self._wake.clear()
            if self._lending is None or self._reachable or not self._loaded:
                await self._wake.wait()
                continue
            # Not ready until the pool answers; nobody asks for a lease only to find that out.
            try:
                await self._lending.check_pool()
                self._reachable = True
            except PilotlightError:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POOL_CHECK_PERIOD_S):
                        await self._wake.wait()

    async def _hold_one(self) -> None:
        engine = await self._provider.acquire()
        try:
            await engine.check()
            self._take(engine)
            await self._until_lost_or_unwanted(engine)
        finally:
            self._tokens_per_s = engine.stats.generation_tokens_per_s or self._tokens_per_s
            if self._engine is not None:
                self._engine = None
                ENGINE_HELD.dec()
            self._booting_since = self._loop.time()
            await self._provider.release(engine)

    def _take(self, engine: Engine) -> None:
        self._boot_s = self._loop.time() - self._booting_since
        self._last_failure = ""
        self._reachable = True
        self._info, self._engine = engine.info, engine
        if self._lending is None:
            self._tell_boot(engine)
        else:
            self._news = self._lending.news()
            self.content = self._news.content
            _log.info("engine lent after %.3f s (%s)", self._boot_s, self._news.path)
        self._workless_since = self._loop.time()
        if not self._works:
            self._workless.set()
        ENGINE_HELD.inc()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(engine)

    def _tell_boot(self, engine: Engine) -> None:
        for phase, seconds in engine.info.boot_phases_s.items():
            BOOT_PHASE.labels(phase).set(seconds)
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in engine.info.boot_phases_s.items())
        _log.info("engine ready after %.1f s (%s)", self._boot_s, phases)

    async def _until_lost_or_unwanted(self, engine: Engine) -> None:
        unwanted: asyncio.Future[Any] = asyncio.create_task(self._unwanted.wait())
        try:
            while not (unwanted.done() or engine.lost.done()):
                workless: asyncio.Future[Any] = asyncio.create_task(self._without_work())
                await asyncio.wait((unwanted, workless, engine.lost), return_when=asyncio.FIRST_COMPLETED)
                workless.cancel()
                # Work may have come between the timer and this line.
                if workless.done() and not self._works:
                    break
        finally:
            unwanted.cancel()
        if engine.lost.done():
            self._note_loss(engine.lost.result())

    def _note_loss(self, reason: str) -> None:
        if self._lending is not None and not self._works:
            _log.info("the idle lease was taken back: %s", reason)
            return
        ENGINES_LOST.inc()
        self._last_failure = reason
        _log.error("the engine was lost: %s", reason)

    async def _without_work(self) -> None:
        """Return when a lent engine has had no work for its time; never for one of our own."""
        while True:
            await self._workless.wait()
            if self._lending is None:
                await asyncio.get_running_loop().create_future()
                continue
            left_s = self._workless_since + self._lending.idle_s - self._loop.time()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    def _note_failure(self, error: PilotlightError) -> None:
        self._last_failure = error.message
        _log.warning("no engine: %s", error.message)
        self._reachable = not isinstance(error, PoolUnreachable)
        if isinstance(error, LeaseRefused):
            self._fail_waiters(LeaseRefused(self._last_failure, retry_after_s=error.retry_after_s))

    def _told_elsewhere(self, elsewhere: bool) -> None:
        self._elsewhere = elsewhere
        if elsewhere:
            _fail(self._movable, self.why_not_held())

    def _fail_waiters(self, error: PilotlightError) -> None:
        _fail(self._waiters, error)


def _fail(waiters: set[asyncio.Future[Engine]], error: PilotlightError) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
