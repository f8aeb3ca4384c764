"""The short way: an endpoint's text API answered in this process, over an engine that it leases.

Responsible for which endpoints are open: opened by their first request, closed when they leave the directory or their
entry is another one, in either case after the requests that run. It must not decide who comes this way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from pilotlight_engine.leasing.leased_holder import PoolAddress
from pilotlight_gateway.directory.endpoint_table import EndpointKey, EndpointTable
from pilotlight_gateway.errors import no_such_model
from pilotlight_gateway.held_events import HeldEvents
from pilotlight_gateway.metrics import ENDPOINTS_OPEN
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.routing.asked_name import with_model
from pilotlight_gateway.short_way.leased_text import LeasedText
from pilotlight_gateway.short_way.text_cache import TextCache
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import PilotlightError
from pilotlight_serving.http_app import route_of
from pilotlight_text.responses_api.response_store import ResponseStore
from pilotlight_text.text_model import VERSION
from pilotlight_wire.handlers import Reply, Stream

_log = logging.getLogger("pilotlight.gateway.short")


class ShortWay:
    """Implements `request_steps.Way`."""

    def __init__(self, pool: PoolAddress, texts: TextCache, stored: ResponseStore, table: EndpointTable) -> None:
        self._pool = pool
        self._texts = texts
        self._stored = stored
        self._table = table
        self._open: dict[EndpointKey, LeasedText] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._warming: dict[EndpointKey, asyncio.Task[None]] = {}
        table.subscribe(self._changed)

    def running(self, key: EndpointKey) -> int:
        """Requests of that endpoint that are answered here now."""
        endpoint = self._open.get(key)
        return 0 if endpoint is None else endpoint.running

    def has_engine(self, key: EndpointKey) -> bool:
        endpoint = self._open.get(key)
        return endpoint is not None and endpoint.has_engine

    def warm(self, entry: EndpointEntry, warmed: Callable[[float], None]) -> None:
        """Let it get an engine for requests to come; `warmed` is told how many seconds that took. Returns at once."""
        if entry.key not in self._warming:
            task = self._warming[entry.key] = asyncio.create_task(self._warm(entry, warmed), name=f"warm-{entry.name}")
            task.add_done_callback(lambda _: self._warming.pop(entry.key, None))

    async def _warm(self, entry: EndpointEntry, warmed: Callable[[float], None]) -> None:
        began_s = time.perf_counter()
        try:
            await self._endpoint(entry).warm()
            warmed(time.perf_counter() - began_s)
        except PilotlightError as error:
            _log.info("no engine for %s/%s beforehand: %s", *entry.key, error)

    def _changed(self, keys: set[EndpointKey]) -> None:
        """The directory has news of these."""
        for key in keys & self._open.keys():
            entry = self._table.get(key)
            endpoint = self._open[key]
            if entry is None or entry.spec_digest != endpoint.entry.spec_digest:
                self._texts.forget(endpoint.files)
                self._end(key)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        context = request.context
        endpoint = self._endpoint(request.entry)
        place = request.place
        route = route_of(endpoint.routes.find(place.method, place.component_path), context)
        context.model_name = self._name_here(endpoint, request)
        if context.path_parameters.get("version", VERSION) != VERSION:
            raise no_such_model(context.model_name, context.path_parameters["version"])
        async with AsyncExitStack() as held:
            await held.enter_async_context(endpoint.use(makes_tokens(place.method, place.component_path)))
            result = await route.handler(context)
            if isinstance(result, Stream):
                result.events = HeldEvents(result.events, held.pop_all())
            return result

    def _name_here(self, endpoint: LeasedText, request: GatewayRequest) -> str:
        """What the request calls the model: what a route is called means one of this endpoint's models from now on, or,
        where it means another one here, the request is written by the endpoint's own name."""
        asked = request.asked.model or ""
        if request.routed is None or endpoint.call(asked, request.model_name):
            request.answers_as = asked
            return asked
        if request.place.model is None:
            request.context.body = with_model(request.context.body, request.model_name)
        return request.model_name

    def _endpoint(self, entry: EndpointEntry) -> LeasedText:
        endpoint = self._open.get(entry.key)
        if endpoint is not None and endpoint.is_over:
            self._end(entry.key)
            endpoint = None
        if endpoint is None:
            endpoint = self._open[entry.key] = LeasedText(entry, self._pool, self._texts, self._stored)
            ENDPOINTS_OPEN.inc()
        return endpoint

    def _end(self, key: EndpointKey) -> None:
        task = asyncio.create_task(self._ended(self._open.pop(key)), name=f"end-{key[1]}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _ended(self, endpoint: LeasedText) -> None:
        await endpoint.unused()
        await endpoint.close()
        ENDPOINTS_OPEN.dec()

    async def close(self) -> None:
        ending = [*self._closing, *self._warming.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, *(endpoint.close() for endpoint in self._open.values()), return_exceptions=True)
        self._open.clear()
        await self._texts.close()
