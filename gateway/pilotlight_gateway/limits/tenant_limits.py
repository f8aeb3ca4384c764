"""The pipeline's step that holds every request to its tenant's limits, before it runs and after.

It knows neither where accounts are kept nor how a request is answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from pilotlight_gateway.limits.accounts import Accounts
from pilotlight_gateway.limits.limit_terms import UNLIMITED, LimitTerms, Refused, Spent, rate_limit_headers
from pilotlight_gateway.limits.request_estimate import estimated_prompt_tokens, reserved_tokens
from pilotlight_gateway.metrics import LIMITED
from pilotlight_gateway.request_steps import Caller, GatewayRequest, NoReservation, Reservation, TokenUsage
from pilotlight_gateway.stream_record import OpenReservation
from pilotlight_protocol.errors import TooManyRequests
from pilotlight_wire.handlers import RequestContext

_SPENT: dict[Spent, str] = {
    "requests_per_minute": "the limit of {limit} requests a minute is reached; send it again after Retry-After",
    "tokens_per_minute": "the limit of {limit} tokens a minute is reached; send it again after Retry-After",
    "concurrency": "{limit} requests run already, as many as may at once; send it again when one has ended",
    "tokens_per_day": "the {limit} tokens of this day (UTC) are taken, or too few are left for this request",
    "tokens_per_month": "the {limit} tokens of this month (UTC) are taken, or too few are left for this request",
}


class TenantLimits:
    """Implements Limits. `terms_of`: what a tenant may take, as of now. `process`: no other's name."""

    def __init__(self, accounts: Accounts, terms_of: Callable[[str], LimitTerms], process: str) -> None:
        self._accounts = accounts
        self._terms_of = terms_of
        self._process = process
        self._numbers = itertools.count()

    async def reserve(self, request: GatewayRequest) -> Reservation:
        tenant = request.caller.tenant
        terms = self._terms_of(tenant)
        if terms == UNLIMITED:
            return NoReservation()
        asked = request.asked
        prompt = estimated_prompt_tokens(len(request.context.body))
        tokens = reserved_tokens(terms, prompt, _at_least(0, asked.most_tokens), _choices(asked.n))
        record = request.record
        if record is not None and record.left_off is not None and record.left_off.began.reservation is not None:
            gone = record.left_off.began.reservation
            headers: Mapping[str, str] = {}
            reservation_id, tokens = self._new_id(), gone.tokens
            await self._accounts.take_over(tenant, gone.id, reservation_id, tokens)
        else:
            reservation_id, headers = await self._granted(tenant, terms, tokens, request.context)
        if record is not None:
            record.reservation = OpenReservation(reservation_id, tokens)
        return _Reserved(self._accounts, tenant, reservation_id, prompt, tokens, headers)

    async def count(self, caller: Caller, context: RequestContext) -> None:
        terms = LimitTerms(requests_per_minute=self._terms_of(caller.tenant).requests_per_minute)
        if terms == UNLIMITED:
            return
        reservation_id, headers = await self._granted(caller.tenant, terms, 0, context)
        self._accounts.settle(caller.tenant, reservation_id, 0)
        context.response_headers.update(headers)

    async def _granted(
        self, tenant: str, terms: LimitTerms, tokens: int, context: RequestContext
    ) -> tuple[str, dict[str, str]]:
        """The reservation's id, and what the client is told. Raises TooManyRequests."""
        reservation_id = self._new_id()
        told = await self._accounts.reserve(tenant, terms, reservation_id, tokens)
        headers = rate_limit_headers(terms, told.standing)
        if isinstance(told, Refused):
            context.response_headers.update(headers)
            LIMITED.labels(told.spent).inc()
            raise TooManyRequests(
                _SPENT[told.spent].format(limit=getattr(terms, told.spent)), retry_after_s=told.retry_after_s
            )
        return reservation_id, headers

    def _new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"


class _Reserved:
    """`prompt_tokens`: estimated, for where nobody counts them: a stream that tells no usage, or is cut before.
    `tokens`: reserved, for an answer whose count nobody waited for."""

    def __init__(
        self,
        accounts: Accounts,
        tenant: str,
        reservation_id: str,
        prompt_tokens: int,
        tokens: int,
        headers: Mapping[str, str],
    ) -> None:
        self.headers = headers
        self._accounts = accounts
        self._tenant = tenant
        self._id = reservation_id
        self._prompt_tokens = prompt_tokens
        self._tokens = tokens

    async def commit(self, usage: TokenUsage) -> None:
        """Whatever was let in is one request of its minute, also where it failed and took no token: else who asks for
        nothing but failures would be held to no limit."""
        tokens = usage.total
        if usage.output_tokens and not usage.prompt_tokens:
            tokens += self._prompt_tokens
        if usage.uncounted:
            tokens = max(tokens, self._tokens)
        self._accounts.settle(self._tenant, self._id, tokens)


def _at_least(least: int, value: int | None) -> int | None:
    return None if value is None else max(least, value)


def _choices(asked: int | None) -> int:
    return 1 if asked is None else max(1, asked)
