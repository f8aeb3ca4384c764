"""One stream's events while its pods make them, and from somebody else when they die or stall.

Responsible for noticing that a stream was cut, in time, and for asking for the rest; what may go on exactly is decided
by who makes it. It must not know which way the rest comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from pilotlight_gateway.metrics import RESUMES
from pilotlight_gateway.pods_way.event_feed import EventFeed
from pilotlight_gateway.pods_way.pods_exchange import Exchange
from pilotlight_gateway.resilience.patience import Patience, PatienceSettings
from pilotlight_gateway.stream_record import NobodyGoesOn
from pilotlight_protocol.errors import DeadlineExceeded, PilotlightError, Unavailable
from pilotlight_wire.http_connection import ConnectionLost, Silence
from pilotlight_wire.poured_events import Sink

MOST_RESUMES = 3
"""A request that kills who makes it does not kill everybody."""

_log = logging.getLogger("pilotlight.gateway.pods")


Take = Callable[[bytes], None]


class Source(Protocol):
    """Bytes of an answer. Reading raises PilotlightError where there should be more."""

    async def read(self) -> bytes:
        """b"" at the end."""
        ...

    async def pour(self, take: Take, sink: Sink) -> None:
        """All that is left, each piece given to `take` as it comes, which writes to `sink`."""
        ...

    def expect_within(self, patience_s: float) -> None:
        """The next bytes must come within that time, again and again."""
        ...

    def passed(self, output_tokens: int) -> None:
        """So many in all, up to now."""
        ...

    def broke(self) -> None:
        """It ended before its end, or said nothing for too long."""
        ...

    async def close(self) -> None:
        """Ends the work behind it."""
        ...


class PodsSource:
    def __init__(self, exchange: Exchange, patience_s: float) -> None:
        self._exchange = exchange
        self._connection = exchange.connection
        self._closed = False
        self.passed = exchange.passed
        self.expect_within(patience_s)

    @property
    def name(self) -> str:
        """The replica's."""
        return self._exchange.upstream.name

    async def read(self) -> bytes:
        try:
            return await self._connection.read()
        except (Silence, ConnectionLost) as error:
            raise self._explained(error) from error

    async def pour(self, take: Take, sink: Sink) -> None:
        try:
            await self._connection.pour(take, sink)
        except (Silence, ConnectionLost) as error:
            raise self._explained(error) from error

    def _explained(self, error: Silence | ConnectionLost) -> PilotlightError:
        if isinstance(error, Silence):
            return DeadlineExceeded(f"the pods sent nothing for {self._patience_s:.3g} s")
        return Unavailable("the pods closed the connection before the answer was complete; try again")

    def expect_within(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._connection.expect_within(patience_s)

    def broke(self) -> None:
        self._exchange.broke(asyncio.get_running_loop().time())

    async def close(self) -> None:
        if not self._closed:  # a connection given back twice would be somebody else's, too
            self._closed = True
            self._exchange.close()


GoOn = Callable[[EventFeed, int], Awaitable[Source]]
"""Who has the rest of what was fed, for the n-th time. Raises PilotlightError."""


class PodsStream:
    """An iterator over whole events. Closing it before its end ends the work behind it."""

    def __init__(self, source: Source, feed: EventFeed, go_on: GoOn, patience: PatienceSettings) -> None:
        self._source = source
        self._feed = feed
        self._go_on = go_on
        self._patience = Patience(patience)
        self._expected_s = 0.0
        self._resumes = 0
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()

    def __aiter__(self) -> PodsStream:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = await self._source.read()
                if events := self._fed(piece) if piece else self._feed.rest():
                    return events
                self._check(is_over=not piece)
            except PilotlightError as lost:
                if await self._is_resumed(lost):
                    continue
                piece = b""
            if not piece:
                raise StopAsyncIteration

    async def pour(self, sink: Sink) -> None:
        """`poured_events`'."""

        def take(piece: bytes) -> None:
            if events := self._fed(piece):
                sink.write(events)
            self._check(is_over=False)

        while True:
            try:
                await self._source.pour(take, sink)
                if rest := self._feed.rest():
                    sink.write(rest)
                self._check(is_over=True)
                return
            except PilotlightError as lost:
                if not await self._is_resumed(lost):
                    return

    def _fed(self, piece: bytes) -> bytes:
        feed = self._feed
        events = feed.feed(piece)
        if feed.has_tokens:
            if feed.is_of_tokens:
                self._watch()
            self._source.passed(feed.output_tokens)
        return events

    def _check(self, *, is_over: bool) -> None:
        """Raises Unavailable where the rest has to come from somebody else."""
        if self._feed.lost is not None:
            raise NobodyGoesOn(self._feed.lost)
        if is_over and not self._feed.may_end:
            raise Unavailable("the pods ended their answer before it was complete; try again")

    def _watch(self) -> None:
        """What the next events may take, from how long those before took."""
        now_s = self._loop.time()
        if self._expected_s:  # what came before the first tokens was no gap
            self._patience.note(now_s - self._last_s)
        self._last_s = now_s
        patience_s = self._patience.patience_s if self._feed.is_told else self._patience.settings.ceiling_s
        if not 0.8 * self._expected_s < patience_s < 1.25 * self._expected_s:
            self._expected_s = patience_s
            self._source.expect_within(patience_s)

    async def _is_resumed(self, lost: PilotlightError) -> bool:
        """False where nothing is missing. Raises what was lost, or why it cannot go on."""
        await self._source.close()
        self._resumes += 1
        if self._feed.ended:
            return False
        self._source.broke()
        if not self._feed.can_go_on:
            RESUMES.labels("impossible").inc()
            raise lost
        if self._resumes > MOST_RESUMES:
            RESUMES.labels("given_up").inc()
            raise lost
        try:
            self._source = await self._go_on(self._feed, self._resumes)
        except PilotlightError as error:
            RESUMES.labels("failed").inc()
            kind = NobodyGoesOn if isinstance(lost, NobodyGoesOn) else Unavailable
            raise kind(f"{lost.message} (and it cannot go on elsewhere: {error.message})") from lost
        _log.info("a stream goes on elsewhere after %d bytes: %s", self._feed.passed, lost.message)
        RESUMES.labels("resumed").inc()
        self._expected_s = 0.0
        return True

    async def aclose(self) -> None:
        await self._source.close()
