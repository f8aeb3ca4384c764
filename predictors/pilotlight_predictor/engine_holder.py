"""Holds the engine that the front serves with: acquires it, watches it, gets another when it is lost.

    wanted ──acquire, check──▶ held ──lost──▶ released ──▶ acquire again
       ▲                        │ unload
       └────load── idle ◀───────┘

The provider waits its own back-off between starts; an engine that can never start ends `run` with EngineMisconfigured,
and so the process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from pilotlight_protocol.errors import PilotlightError, Unavailable

from pilotlight_predictor.engine.client import told_to_clients
from pilotlight_predictor.engine.contract import Engine, EngineProvider
from pilotlight_predictor.engine.errors import EngineMisconfigured
from pilotlight_predictor.front_metrics import BOOT_PHASE, ENGINE_HELD, ENGINES_LOST

# A cold start on two CPU cores; the first boot of this process replaces it.
FIRST_BOOT_GUESS_S = 20.0
_RETRY_AFTER_MAX_S = 60.0
_RETRY_PAUSE_S = 1.0

_log = logging.getLogger("pilotlight.engine")


class PhasedProvider(EngineProvider, Protocol):
    """A provider that says what it is doing now, in a word or two, for the answer to a client that comes too early."""

    @property
    def phase(self) -> str: ...


class EngineHolder:
    def __init__(self, provider: PhasedProvider) -> None:
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._unwanted = asyncio.Event()
        self._held = asyncio.Event()
        self._idle = asyncio.Event()
        self._booting_since = self._loop.time()
        self._boot_s = FIRST_BOOT_GUESS_S
        self._last_failure = ""

    @property
    def held(self) -> bool:
        engine = self._engine
        return engine is not None and not engine.lost.done()

    def engine(self) -> Engine:
        """The engine; raises Unavailable that says what it is waiting for."""
        engine = self._engine
        if engine is None or engine.lost.done():
            raise self.why_not_held()
        return engine

    def why_not_held(self) -> Unavailable:
        if not self._wanted.is_set():
            return Unavailable(
                "the model is unloaded; POST /v2/repository/models/{model}/load brings it back", retry_after_s=30
            )
        waited_s = self._loop.time() - self._booting_since
        left_s = min(_RETRY_AFTER_MAX_S, max(1.0, self._boot_s - waited_s))
        failure = f"; before that: {self._last_failure}" if self._last_failure else ""
        return Unavailable(
            f"the engine is starting ({self._provider.phase}, for {waited_s:.0f} s){failure}", retry_after_s=left_s
        )

    async def load(self) -> None:
        """Return when an engine is held."""
        self._unwanted.clear()
        self._wanted.set()
        await self._held.wait()

    async def unload(self) -> None:
        """Return when the engine is given back."""
        self._wanted.clear()
        self._unwanted.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Hold an engine until cancelled; then it is released. Raises EngineMisconfigured when none can ever start."""
        while True:
            self._idle.set()
            await self._wanted.wait()
            self._idle.clear()
            self._booting_since = self._loop.time()
            try:
                await self._hold_one()
            except EngineMisconfigured:
                raise
            except PilotlightError as error:
                self._last_failure = told_to_clients(error.message)
                _log.warning("no engine: %s", error.message)
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _hold_one(self) -> None:
        engine = await self._provider.acquire()
        try:
            await engine.check()
            self._boot_s = self._loop.time() - self._booting_since
            self._tell(engine)
            self._last_failure = ""
            self._engine = engine
            self._held.set()
            ENGINE_HELD.set(1)
            await self._until_lost_or_unwanted(engine)
        finally:
            self._engine = None
            self._held.clear()
            ENGINE_HELD.set(0)
            self._booting_since = self._loop.time()
            await self._provider.release(engine)

    def _tell(self, engine: Engine) -> None:
        for phase, seconds in engine.info.boot_phases_s.items():
            BOOT_PHASE.labels(phase).set(seconds)
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in engine.info.boot_phases_s.items())
        _log.info("engine ready after %.1f s (%s)", self._boot_s, phases)

    async def _until_lost_or_unwanted(self, engine: Engine) -> None:
        unwanted: asyncio.Future[Any] = asyncio.create_task(self._unwanted.wait())
        try:
            await asyncio.wait((unwanted, engine.lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwanted.cancel()
        if engine.lost.done():
            ENGINES_LOST.inc()
            self._last_failure = told_to_clients(engine.lost.result())
            _log.error("the engine was lost: %s", engine.lost.result())
