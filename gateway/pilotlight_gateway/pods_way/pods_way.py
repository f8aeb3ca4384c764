"""Passes a request on to the endpoint's pods, and their answer back as it comes.

The client's keys stay here. What the pods' answer took is read out of its `usage`, a stream's out of what it tells of
its tokens. What fails before its first byte is sent again where that does no harm (`resilience`), a stream that is cut
after it goes on elsewhere (`pods_stream`); pods that fail again and again are left alone for a moment. It must not
decide which way a request goes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.held_events import HeldEvents
from pilotlight_gateway.pods_way import pods_answer
from pilotlight_gateway.pods_way.event_feed import EventFeed
from pilotlight_gateway.pods_way.pods_exchange import Exchange, PodsExchange
from pilotlight_gateway.pods_way.pods_request import PodsRequest, pods_request
from pilotlight_gateway.pods_way.pods_stream import PodsSource, PodsStream, Source
from pilotlight_gateway.pods_way.replica_set import ReplicaSet, Timing
from pilotlight_gateway.pods_way.short_source import goes_short, short_source
from pilotlight_gateway.request_steps import GatewayRequest, Way
from pilotlight_gateway.resilience.patience import PatienceSettings
from pilotlight_gateway.resilience.retries import RetrySettings, is_repeatable
from pilotlight_gateway.responses.pods_responses import PodsResponses, is_of_responses
from pilotlight_gateway.stream_record import NobodyGoesOn, StreamRecord
from pilotlight_gateway.surfaces import last_events
from pilotlight_protocol.answer_record import RESUME, TELL, Seed
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_wire.handlers import Reply, Stream
from pilotlight_wire.hop_headers import parse_server_timing, passed_back
from pilotlight_wire.request_time import left_s

LOSS_S = 60.0
"""How long one loss may keep a client waiting for the next token."""

_log = logging.getLogger("pilotlight.gateway.pods")
_WAKING_PATH = "/v2/health/ready"
_OK = 200
_PASSED_BACK = ("retry-after", "inference-header-content-length", "allow")


class PodsWay:
    """Implements `request_steps.Way`. `jitter`: from 0 to less than 1. `short`: where a cut stream goes on.
    `table`: of the endpoints as they are now, None where they never change. `responses`: what keeps those of pods."""

    def __init__(
        self,
        timing: Timing = Timing(),  # noqa: B008
        patience: PatienceSettings = PatienceSettings(),  # noqa: B008
        retries: RetrySettings = RetrySettings(),  # noqa: B008
        jitter: Callable[[], float] = random.random,
        short: Way | None = None,
        table: EndpointTable | None = None,
        responses: PodsResponses | None = None,
    ) -> None:
        self._table = table
        self._responses = responses
        self._patience = patience
        self._short = short
        self._replicas = ReplicaSet(timing, retries)
        self._exchanges = PodsExchange(self._replicas, retries, jitter)
        self._waking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def wake(self, entry: EndpointEntry) -> None:
        """Let the endpoint's pods start for requests to come, as one at the ingress does. Returns at once."""
        if entry.key not in self._waking:
            task = asyncio.create_task(self._wake(entry), name=f"wake {entry.name}")
            self._waking[entry.key] = task
            task.add_done_callback(lambda _: self._waking.pop(entry.key, None))

    async def _wake(self, entry: EndpointEntry) -> None:
        pool = self._replicas.pool(entry.pods)
        head = f"GET {_WAKING_PATH} HTTP/1.1\r\nhost: {entry.pods.host}\r\n\r\n"
        try:
            async with asyncio.timeout(entry.timeout_s):
                connection = await pool.exchange(head.encode("latin-1"))
                pool.settle(connection)
        except (PilotlightError, TimeoutError) as error:
            _log.info("the pods of %s/%s could not be woken: %s", *entry.key, error)

    async def answer(self, request: GatewayRequest) -> Reply | Stream:
        asked = pods_request(request)
        responses = self._responses if is_of_responses(request) else None
        watched = None if responses is None else responses.watch(request)
        feed = EventFeed(request.usage, last_events(request.place.path), None if watched is None else watched.look)
        record = request.record
        if request.entry.text is not None and request.may_stream:
            seed = Seed(int(time.time()), secrets.token_hex(16)) if record is None else record.seed
            asked = replace(asked, headers={**asked.headers, TELL: seed.header})
        if responses is not None:
            asked = await responses.given(request, asked)
        ends_s = asyncio.get_running_loop().time() + request.entry.timeout_s
        left = _from_where_left(asked, record, feed)
        exchange = await self._exchanges.begin(request, left, _begins_by(request, ends_s))
        if record is not None:
            record.make(request.begun_by("pods", record), feed)
            if record.left_off is not None and not exchange.is_stream:
                raise NobodyGoesOn(pods_answer.refusal(await exchange.whole(), exchange.connection.status))
        context, connection = request.context, exchange.connection
        context.server_timing.update(parse_server_timing(connection.headers.get("server-timing", "")))
        context.response_headers.update(passed_back(connection.headers))
        if exchange.is_stream:
            events: AsyncIterator[bytes] = self._stream(request, asked, exchange, feed, _left_s(ends_s))
            events = events if watched is None else HeldEvents(events, watched)
            return Stream(events, exchange.content_type)
        body = await exchange.whole()
        pods_answer.note_usage(body, request.usage)
        if responses is not None and connection.status == _OK:
            await responses.keep(request, body)
        headers = {name: connection.headers[name] for name in _PASSED_BACK if name in connection.headers}
        return Reply(body, connection.status, exchange.content_type, headers)

    def _stream(
        self, request: GatewayRequest, asked: PodsRequest, exchange: Exchange, feed: EventFeed, left_s: float
    ) -> PodsStream:
        lost = exchange.upstream.name

        async def go_on(feed: EventFeed, resumes: int) -> Source:
            nonlocal lost
            source = await self._rest(request, asked, feed, resumes, lost)
            lost = source.name if isinstance(source, PodsSource) else lost
            return source

        return PodsStream(PodsSource(exchange, left_s), feed, go_on, self._patience)

    async def _rest(
        self, request: GatewayRequest, asked: PodsRequest, feed: EventFeed, resumes: int, lost: str
    ) -> Source:
        """What comes after what was fed: of the short way where the endpoint may go it, every other time of pods, and
        there of another replica than the one that was lost."""
        if not is_repeatable(request.place.method, request.place.path):
            raise Unavailable("the request may do harm twice")
        ends_s = asyncio.get_running_loop().time() + LOSS_S
        resumption, body = feed.go_on(asked.body)
        if resumption is not None and not self._is_as_it_was(request.entry):
            raise Unavailable("the endpoint's model may be another one by now; send the request again")
        more = {} if resumption is None else {RESUME: resumption.header}
        # Whoever has the beginning of its answer waits for the rest.
        waited_for = asked.ends_s if resumption is None else None
        again = replace(asked, headers={**asked.headers, **more}, body=body, ends_s=waited_for)
        if resumption is not None and self._short is not None and resumes % 2 and goes_short(request.entry):
            try:
                return await short_source(self._short, request, again, LOSS_S / 2)
            except PilotlightError as error:
                _log.info("request %s does not go on here: %s", request.context.request_id, error.message)
        exchange = await self._exchanges.begin(request, again, ends_s, avoid=lost)
        if exchange.is_stream:
            return PodsSource(exchange, _left_s(ends_s))
        said = await exchange.whole()
        raise Unavailable(pods_answer.refusal(said, exchange.connection.status))

    def _is_as_it_was(self, entry: EndpointEntry) -> bool:
        """Whoever answers for it now has the model that the answer began with."""
        now = entry if self._table is None else self._table.get(entry.key)
        return now is not None and now.spec_digest == entry.spec_digest and not entry.is_split

    async def close(self) -> None:
        waking = list(self._waking.values())
        for task in waking:
            task.cancel()
        if waking:
            await asyncio.wait(waking)
        await self._exchanges.close()
        self._replicas.close()


def _from_where_left(asked: PodsRequest, record: StreamRecord | None, feed: EventFeed) -> PodsRequest:
    if record is None or record.left_off is None:
        return asked
    feed.continue_from(record.left_off)
    resumption, body = feed.go_on(asked.body)
    if resumption is None:
        return asked
    return replace(asked, headers={**asked.headers, RESUME: resumption.header}, body=body)


def _begins_by(request: GatewayRequest, ends_s: float) -> float:
    """Its sender may wait for less than the endpoint's time."""
    waits_s = left_s(request.context)
    return ends_s if waits_s is None else min(ends_s, asyncio.get_running_loop().time() + waits_s)


def _left_s(ends_s: float) -> float:
    return max(0.1, ends_s - asyncio.get_running_loop().time())
