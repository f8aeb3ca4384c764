"""A platform's control socket over endpoints in memory: the embedded platform's own server and news, and no pods."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from pilotlight_local.embedded.control_server import ControlServer
from pilotlight_local.embedded.endpoint_news import EndpointNews
from pilotlight_local.ingress.routes import EndpointName
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_protocol.endpoint_orders import (
    NEW,
    Applied,
    ApplyOrder,
    Deleted,
    HeldEndpoint,
    HeldEndpoints,
    NotApplied,
)


class ScriptedPlatform:
    """`pods_url`: what answers for every endpoint that is ordered. It runs its own event loop in a thread."""

    def __init__(self, socket: Path, pods_url: str) -> None:
        self.socket = socket
        self._pods_url = pods_url
        self._loop = asyncio.new_event_loop()

    @contextlib.contextmanager
    def running(self) -> Iterator[ScriptedPlatform]:
        thread = threading.Thread(target=self._loop.run_forever, name="scripted platform", daemon=True)
        thread.start()
        self.start()
        try:
            yield self
        finally:
            self.stop()
            self._run(_end_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    def start(self, epoch: str = "e1") -> None:
        """With no endpoints."""
        nobody = cast(Any, None)
        news = EndpointNews(epoch)
        self._orders = _Orders(news, self._pods_url)
        self._server = ControlServer(nobody, nobody, cast(Any, self._orders), news, None, 0, lambda: None)
        self._run(self._server.serve(self.socket))

    def stop(self) -> None:
        self._run(self._server.close())

    def tell(self, entries: Sequence[EndpointEntry]) -> None:
        """As endpoints that a file brought."""
        self._run(self._orders.tell(entries))

    def remove(self, namespace: str, name: str) -> None:
        self._run(self._orders.delete(EndpointName(namespace, name), None))

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


async def _end_others() -> None:
    """Whoever still waits for news."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Orders:
    """As the embedded platform's `EndpointOrders`, without a controller behind it."""

    def __init__(self, news: EndpointNews, pods_url: str) -> None:
        self._news = news
        self._pods_url = pods_url
        self._held: dict[EndpointName, HeldEndpoint] = {}

    async def tell(self, entries: Sequence[EndpointEntry]) -> None:
        for entry in entries:
            self._held[EndpointName(*entry.key)] = HeldEndpoint(*entry.key)
            self._news.tell(entry)

    def held(self, namespace: str | None) -> HeldEndpoints:
        found = sorted(self._held.items(), key=lambda item: str(item[0]))
        return HeldEndpoints(tuple(held for name, held in found if namespace in (None, name.namespace)))

    async def apply(self, name: EndpointName, order: ApplyOrder) -> Applied | NotApplied:
        known = self._held.get(name)
        if order.generation != (NEW if known is None else known.generation):
            return NotApplied()
        made = HeldEndpoint(name.namespace, name.name, (), order.generation + 1, 1.0, msgspec.Raw(bytes(order.spec)))
        self._held[name] = made
        pods = PodsAddress(self._pods_url, f"{name.name}.{name.namespace}.localhost")
        digest = f"d{order.generation}"
        self._news.tell(EndpointEntry(name.namespace, name.name, (name.name,), digest, pods, 1, front="pods"))
        return Applied(order.generation + 1, self._news.place)

    async def delete(self, name: EndpointName, generation: int | None) -> Deleted | NotApplied:
        known = self._held.get(name)
        if known is not None and known.generation is not None and generation not in (None, known.generation):
            return NotApplied()
        self._held.pop(name, None)
        self._news.remove(name.namespace, name.name)
        return Deleted(known is not None, self._news.place)
