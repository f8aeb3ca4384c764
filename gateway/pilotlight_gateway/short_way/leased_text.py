"""One endpoint on the short way: its text model, and the engine it leases while it has work.

Responsible for when a lease is asked for (with the first request that needs an engine) and for its end. Who may ask is
decided before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_engine.leasing.leased_holder import LeaseTimes, PoolAddress, leased_holder
from pilotlight_gateway.short_way.admitted_source import AdmittedSource
from pilotlight_gateway.short_way.endpoint_routes import endpoint_routes
from pilotlight_gateway.short_way.text_cache import TextCache
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.endpoint_names import spellings
from pilotlight_protocol.leases import LeaseRequest
from pilotlight_text.leased_engine_source import LeasedEngineSource
from pilotlight_text.responses_api.response_store import ResponseStore
from pilotlight_text.text_model import TextModel

FIRST_LEASE_S = 600.0
"""An engine may have to boot, which takes longer than any request waits."""

RETRY_HOPELESS_S = 30.0
"""After it turned out that no engine can ever start, whoever asks again later may find that somebody has mended it."""

_log = logging.getLogger("pilotlight.gateway.short")


class LeasedText:
    """`close` when nobody is inside `use` any more."""

    def __init__(self, entry: EndpointEntry, pool: PoolAddress, texts: TextCache, stored: ResponseStore) -> None:
        assert entry.lease is not None
        assert entry.text is not None
        self.entry = entry
        self.running = 0
        self.files = entry.text
        self._unused = asyncio.Event()
        self._unused.set()
        self._texts = texts
        self._lease: LeaseRequest = entry.lease
        self._pool = pool
        self._holder = self._new_holder()
        self._holding: asyncio.Task[None] | None = None
        self._hopeless_since: float | None = None
        names = spellings(entry)
        self._meant = dict(names)
        self._engine_names = {name: self._engine_name(model) for name, model in names.items()}
        self._model = TextModel(tuple(names), self._source(self._engine_names))
        self.routes = endpoint_routes(self._model, stored)

    def _engine_name(self, model_name: str) -> str:
        return self._lease.model_name if model_name == self.entry.model_names[0] else model_name

    def call(self, name: str, model_name: str) -> bool:
        """Let `name` mean that model here, too. False where it means another one already."""
        meant = self._meant.get(name)
        if meant is None:
            self._meant[name], self._engine_names[name] = model_name, self._engine_name(model_name)
            self._model.names = tuple(self._meant)
        return meant in (None, model_name)

    def _new_holder(self) -> EngineHolder:
        bounds = self.entry.bounds
        times = LeaseTimes(max(FIRST_LEASE_S, bounds.lease_wait_s), bounds.lease_wait_s, bounds.lease_idle_s)
        return leased_holder(self._lease, self._pool, times)

    def _source(self, engine_names: dict[str, str]) -> AdmittedSource:
        bounds = self.entry.bounds
        return AdmittedSource(
            self._holder,
            LeasedEngineSource(self._holder, self._lease.model_name),
            engine_names,
            RequestLimits.of(bounds),
            QueueLimits.of(bounds),
        )

    @property
    def is_over(self) -> bool:
        """No engine can start for it as it is, and that was found out a while ago."""
        since = self._hopeless_since
        return since is not None and asyncio.get_running_loop().time() - since > RETRY_HOPELESS_S

    @property
    def has_engine(self) -> bool:
        return self._holder.held

    async def warm(self) -> None:
        """Get an engine that requests to come may use. Raises Unavailable."""
        async with self.use(makes_tokens=True):
            await self._holder.engine(self._holder.first_wait_s)

    @contextlib.asynccontextmanager
    async def use(self, makes_tokens: bool) -> AsyncIterator[None]:
        """The model has its text inside; with `makes_tokens` the engine is asked for beside loading it.

        Raises Unavailable: the text cannot be loaded.
        """
        self.running += 1
        self._unused.clear()
        try:
            with self._work() if makes_tokens else contextlib.nullcontext():
                async with self._texts.text(self.files) as text:
                    self._model.set_loaded(text)
                    yield
        finally:
            self.running -= 1
            if not self.running:
                self._model.set_loaded(None)  # so that the cache may drop it
                self._unused.set()

    async def unused(self) -> None:
        """Return when nobody is inside `use`."""
        await self._unused.wait()

    @contextlib.contextmanager
    def _work(self) -> Iterator[None]:
        if self._holding is None:
            self._holding = asyncio.create_task(self._hold(), name=f"hold-{self.entry.name}")
        with self._holder.work():
            yield

    async def _hold(self) -> None:
        try:
            await self._holder.run()
        except EngineMisconfigured as error:
            self._hopeless_since = asyncio.get_running_loop().time()
            _log.error("no engine for %s/%s: %s", *self.entry.key, error.message)

    async def close(self) -> None:
        """Give the lease back."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait({self._holding})
