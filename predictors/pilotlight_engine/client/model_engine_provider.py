"""An engine provider that first fetches the model, then boots a child engine for it.

Fetching and reading the checkpoint block, so they run in a thread, and the server answers probes meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pilotlight_engine.client.child_provider import ChildEngineProvider
from pilotlight_engine.contract import Engine
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_protocol.errors import PilotlightError


class ModelEngineProvider:
    """`fetch` gives the model's directory, `provide` a provider for it. Implements `contract.EngineProvider`."""

    def __init__(self, fetch: Callable[[], Path], provide: Callable[[Path], ChildEngineProvider]) -> None:
        self._fetch = fetch
        self._provide = provide
        self._child: ChildEngineProvider | None = None

    @property
    def phase(self) -> str:
        return "fetching the model" if self._child is None else self._child.phase

    async def acquire(self) -> Engine:
        if self._child is None:
            try:
                directory = await asyncio.to_thread(self._fetch)
                self._child = await asyncio.to_thread(self._provide, directory)
            except PilotlightError as error:
                if error.retryable:
                    raise
                raise EngineMisconfigured(error.message) from error
        return await self._child.acquire()

    async def release(self, engine: Engine) -> None:
        if self._child is not None:
            await self._child.release(engine)
