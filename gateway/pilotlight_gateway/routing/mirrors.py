"""Copies of requests to another endpoint, whose answers nobody sees.

A copy begins after its original has begun to answer, costs nobody anything, and is the first thing that is left out:
where too many run, and while the gateway is busy. What becomes of it changes nothing. It must not decide which requests
are copied.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgspec

from pilotlight_gateway.metering import USAGE
from pilotlight_gateway.metrics import mirrored
from pilotlight_gateway.request_steps import Answering, Choice, GatewayRequest, TokenUsage
from pilotlight_gateway.routing.asked_name import with_model
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.request_priority import PRIORITY_HEADER
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import RequestContext, Stream
from pilotlight_wire.hop_headers import TENANT

MIRROR_HEADER = "x-pilotlight-mirror"
NOBODY = "-mirror"
"""Whose stored responses those of copies are: no tenant is called so."""

MOST_RUNNING = 64
_NOT_COPIED = frozenset(("idempotency-key", "x-request-id", "last-event-id"))
_log = logging.getLogger("pilotlight.gateway.routing")


class Mirrors:
    """`is_busy`: whether the gateway has no room for what nobody waits for."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._running: set[asyncio.Task[None]] = set()
        self._of_route: Counter[str] = Counter()

    def begin(
        self, choice: Choice, route_name: str, most_running: int, original: GatewayRequest, answering: Answering
    ) -> None:
        """Returns at once."""
        if self._is_busy() or len(self._running) >= MOST_RUNNING or self._of_route[route_name] >= most_running:
            mirrored("left out").inc()
            return
        self._of_route[route_name] += 1
        task = asyncio.create_task(self._run(copy_of(original, choice), answering), name="mirror")
        self._running.add(task)
        task.add_done_callback(lambda task: self._done(task, route_name))

    def _done(self, task: asyncio.Task[None], route_name: str) -> None:
        self._running.discard(task)
        self._of_route[route_name] -= 1
        if not self._of_route[route_name]:
            del self._of_route[route_name]

    async def _run(self, request: GatewayRequest, answering: Answering) -> None:
        USAGE.set(request.usage)
        try:
            async with asyncio.timeout(request.entry.timeout_s):
                result = await answering(request)
                if isinstance(result, Stream):
                    try:
                        async for _ in result.events:
                            pass
                    finally:
                        await close_events(result.events)
        except (PilotlightError, TimeoutError) as error:
            mirrored("failed").inc()
            _log.info("the copy %s failed: %s", request.context.request_id, error)
        except Exception:
            mirrored("failed").inc()
            _log.exception("the copy %s failed", request.context.request_id)
        else:
            mirrored("answered").inc()

    async def close(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


def copy_of(original: GatewayRequest, choice: Choice) -> GatewayRequest:
    """The same request to another endpoint, for nobody's account."""
    given, name = original.context, choice.model_name
    headers = {key: value for key, value in given.headers.items() if key not in _NOT_COPIED}
    context = RequestContext(
        f"{given.request_id}-mirror",
        {**headers, TENANT: NOBODY, MIRROR_HEADER: "1", PRIORITY_HEADER: "low"},
        with_model(given.body, name) if original.place.model is None else given.body,
        query_string=given.query_string,
    )
    asked = msgspec.structs.replace(original.asked, model=name)
    return replace(
        original,
        context=context,
        asked=asked,
        entry=choice.entry,
        model_name=name,
        usage=TokenUsage(),
        routed=None,
        choice=choice,
        record=None,
    )
