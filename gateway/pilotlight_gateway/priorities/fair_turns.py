"""The pipeline's step between limits and way: a request waits here until it is its turn at its endpoint.

Responsible for waiting, its deadline, and that who leaves leaves nothing behind. Whose turn it is, is decided in
`endpoint_turns`. Where there is room a request passes without a wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pilotlight_gateway.directory.endpoint_table import EndpointKey
from pilotlight_gateway.priorities.asked_priority import priority_of
from pilotlight_gateway.priorities.endpoint_turns import GOES, EndpointTurns, How, Refusal
from pilotlight_gateway.priorities.fair_band import Ticket
from pilotlight_gateway.priorities.queue_metrics import TURNED_AWAY, WAITED, WAITING
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.request_steps import NO_TURN, GatewayRequest, Turn
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.errors import PilotlightError, TooManyRequests, Unavailable
from pilotlight_protocol.request_priority import PRIORITIES, PRIORITY_HEADER, RANK

BYTES_PER_TOKEN = 4
PHASE = "turn"
_MOST_ENDPOINTS = 4096


class FairTurns:
    """Implements `request_steps.Turns`. `settings`: as of now."""

    def __init__(
        self,
        settings: Callable[[], QueueSettings],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._now_s = now_s
        self._endpoints: dict[EndpointKey, EndpointTurns] = {}
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}

    def wait_s(self, key: EndpointKey) -> float:
        """How long one that comes to this endpoint now waits, about."""
        endpoint = self._endpoints.get(key)
        return 0.0 if endpoint is None or not endpoint.waiting else endpoint.wait_s(self._now_s())

    async def take(self, request: GatewayRequest) -> Turn:
        """Raises InvalidInput, TooManyRequests, Unavailable."""
        context, place = request.context, request.place
        priority = priority_of(request.caller.priority, context.headers, request.asked.service_tier)
        context.headers = {**context.headers, PRIORITY_HEADER: priority}
        if not makes_tokens(place.method, place.component_path):
            return NO_TURN
        endpoint = self._endpoint(request.entry)
        turn = _Taken(self, request, endpoint, RANK[priority])
        entered = endpoint.enter(turn, self._now_s())
        if entered is GOES:
            return turn
        if entered.evicted is not None:
            self._tell(*entered.evicted)
        if entered.refusal is not None:
            raise _turned_away(entered.refusal, turn, "full")
        await self._wait(endpoint, turn, request)
        return turn

    async def _wait(self, endpoint: EndpointTurns, ticket: Ticket, request: GatewayRequest) -> None:
        told = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        priority, began_s = PRIORITIES[ticket.rank], self._now_s()
        WAITING[priority].inc()
        try:
            async with asyncio.timeout(endpoint.settings.longest_wait_s):
                await told
        except BaseException as error:
            if not endpoint.give_up(ticket) and ticket.started_s is not None:
                self.end(endpoint, ticket, 0, "unfinished")
            if isinstance(error, TimeoutError):
                raise _turned_away(endpoint.late(ticket, self._now_s()), ticket, "late") from None
            raise
        finally:
            del self._waiting[ticket]
            if told.done() and not told.cancelled():
                told.exception()  # it is told; who left at the same time does not hear it
            waited_s = self._now_s() - began_s
            WAITING[priority].dec()
            WAITED[priority].observe(waited_s)
            request.context.server_timing[PHASE] = waited_s * 1000

    def end(self, endpoint: EndpointTurns, ticket: Ticket, tokens: int, how: How) -> None:
        now_s = self._now_s()
        endpoint.end(ticket, tokens, how, now_s)
        if not endpoint.waiting:
            return
        for started in endpoint.next(now_s):
            waiting = self._waiting[started]
            if not waiting.done():
                waiting.set_result(None)

    def _tell(self, ticket: Ticket, refusal: Refusal) -> None:
        waiting = self._waiting[ticket]
        if not waiting.done():
            waiting.set_exception(_turned_away(refusal, ticket, "gave_way"))

    def _endpoint(self, entry: EndpointEntry) -> EndpointTurns:
        settings = self._settings()
        ceiling = (settings.in_flight or entry.bounds.max_batch) * (entry.pods_ready or 1)
        endpoint = self._endpoints.get((entry.namespace, entry.name))
        if endpoint is None:
            if len(self._endpoints) >= _MOST_ENDPOINTS:
                self._endpoints = {key: each for key, each in self._endpoints.items() if not each.is_unused}
            endpoint = self._endpoints[entry.key] = EndpointTurns(settings, ceiling, self._now_s())
        if ceiling != endpoint.capacity.ceiling:
            endpoint.capacity.set_ceiling(ceiling)
        endpoint.settings = settings
        return endpoint


class _Taken(Ticket):
    """Implements `request_steps.Turn`."""

    __slots__ = ("_endpoint", "_refused", "_turns", "_usage")

    def __init__(self, turns: FairTurns, request: GatewayRequest, endpoint: EndpointTurns, rank: int) -> None:
        asked, size = request.asked, len(request.context.body)
        choices = 1 if asked.n is None or asked.n < 1 else min(asked.n, request.entry.bounds.max_sequences)
        output, most = endpoint.rate.usual_output_tokens, asked.most_tokens
        if most is not None and most < output:
            output = most
        # What it is taken to cost until it has ended; at least a token.
        tokens = 1 + size // BYTES_PER_TOKEN + (int(output) * choices if output > 0 else 0)
        # Not by `super`: this is on every request's way.
        self.tenant, self.rank, self.tokens = request.caller.tenant, rank, tokens
        self.size_bytes, self.weight, self.started_s = size, choices, None
        self._turns = turns
        self._usage = request.usage
        self._endpoint = endpoint
        self._refused = False

    def refused(self) -> None:
        self._refused = True

    def end(self) -> None:
        usage = self._usage
        used = usage.prompt_tokens + usage.output_tokens
        if usage.output_tokens:
            self._endpoint.rate.answered(usage.output_tokens / self.weight)
        self._turns.end(
            self._endpoint, self, used, "refused" if self._refused else "answered" if used else "unfinished"
        )


def _turned_away(refusal: Refusal, ticket: Ticket, reason: str) -> PilotlightError:
    TURNED_AWAY[PRIORITIES[ticket.rank], reason].inc()
    if refusal.of_tenant:
        return TooManyRequests(
            "as many of your requests wait for this model as may; send it again after Retry-After",
            retry_after_s=refusal.retry_after_s,
        )
    return Unavailable(
        "this model is asked for more than it can answer; send it again after Retry-After",
        retry_after_s=refusal.retry_after_s,
    )
