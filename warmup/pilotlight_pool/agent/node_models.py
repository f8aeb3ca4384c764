"""The models of this node for its agent: what is here is looked up at once, what is not is fetched beside that.

Look-ups have threads that never wait for a network (`model_look_ups`); downloads have theirs (`model_fetches`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from pilotlight_pool.agent.model_fetches import ModelFetches
from pilotlight_pool.agent.model_files import Located, ModelFiles
from pilotlight_pool.agent.model_look_ups import ModelLookUps
from pilotlight_pool.engine_orders import EngineOrder, GrantedAdapter, ModelFacts, ModelOrder
from pilotlight_protocol.errors import ModelNotFound, Unavailable
from pilotlight_store import Hold

# A stored model whose source answers later than this is served as it is here.
_REFRESH_PATIENCE_S = 5.0


class NodeModels:
    """`close` ends the downloads. `peek` and `describe`: see `agent_port.AgentPort`."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._fetches = ModelFetches(files.fetch)
        self._look_ups = ModelLookUps()

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        return await self._look_ups.look(order.uri, lambda: self._files.peek(order))

    async def describe(self, order: ModelOrder) -> ModelFacts:
        facts = await self._look_ups.look(order.uri, lambda: self._files.known(order))
        if facts is not None:
            return facts
        here = await self._look_ups.look(order.uri, lambda: self._files.peek(order))
        for uri in order.uris:
            if await self._look_ups.look(uri, partial(self._files.is_known, uri)):
                continue
            if here is None:
                await self._fetches.fetch(uri)
            else:
                await self._fetches.refresh(uri, _REFRESH_PATIENCE_S)
        facts = await self._look_ups.look(order.uri, lambda: self._files.known(order)) or here
        if facts is None:
            raise Unavailable(f"{order.uri} was evicted at once: the store has too little room", retry_after_s=5.0)
        return facts

    async def hold(self, order: EngineOrder, deadline_s: float) -> tuple[Located, Hold | None]:
        """The model as it was described, fetched again where it was evicted since. Raises PilotlightError where it has
        changed or gone."""
        try:
            try:
                return await self._hold(order)
            except ModelNotFound:
                async with asyncio.timeout(deadline_s):
                    await self.describe(order.model)
            return await self._hold(order)
        except TimeoutError as error:
            raise Unavailable(f"{order.model.uri} was not fetched again within {deadline_s:g} s") from error

    async def hold_adapter(self, adapter: GrantedAdapter) -> tuple[Path, str, Hold | None]:
        """See `ModelFiles.hold_adapter`."""
        return await self._look_ups.look(adapter.uri, lambda: self._files.hold_adapter(adapter), _release)

    async def close(self) -> None:
        self._look_ups.close()
        await self._fetches.close()

    async def _hold(self, order: EngineOrder) -> tuple[Located, Hold | None]:
        return await self._look_ups.look(order.model.uri, lambda: self._files.hold(order), _release)


def _release(held: tuple[object, Hold | None] | tuple[object, str, Hold | None]) -> None:
    hold = held[-1]
    if isinstance(hold, Hold):
        hold.release()
