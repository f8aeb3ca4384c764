"""What was taken, over HTTP: a tenant's own, everybody's for an admin, as JSON or (`Accept: text/csv`) as CSV.

GET  /v1/usage?from=&to=&by=&endpoint=&tenant=
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.usage.prices import PriceTable
from pilotlight_gateway.usage.usage_book import UsageBook
from pilotlight_gateway.usage.usage_report import (
    MOST_ROWS,
    EndpointUsage,
    UsageQuestion,
    csv_of,
    read_question,
    report,
    shown_amounts,
    today,
)
from pilotlight_gateway.usage.usage_rows import Amounts, Total
from pilotlight_protocol.errors import Forbidden, InvalidInput, TooManyRequests
from pilotlight_wire.handlers import Reply, RequestContext

CSV = "text/csv"


class UsageApi:
    def __init__(self, book: UsageBook, prices: Callable[[], PriceTable], wall_s: Callable[[], float]) -> None:
        self._book = book
        self._prices = prices
        self._wall_s = wall_s
        self._asking: set[str] = set()

    def routes(self) -> list[OwnRoute]:
        return [OwnRoute("GET", "/v1/usage", self._usage)]

    async def _usage(self, context: RequestContext, caller: Caller) -> Reply:
        query = context.query
        tenant = query.get("tenant", None if caller.role == "admin" else caller.tenant)
        if tenant != caller.tenant and caller.role != "admin":
            raise Forbidden("this needs an admin's key; without `tenant` it is about your own usage")
        question = read_question(query, today(self._wall_s()), tenant)
        if caller.tenant in self._asking:
            raise TooManyRequests("your last question about usage is being answered; ask one after the other")
        self._asking.add(caller.tenant)
        try:
            rows = await self._rows(question)
        finally:
            self._asking.discard(caller.tenant)
        currency = self._prices().currency
        if CSV in context.headers.get("accept", ""):
            return Reply(csv_of(question, rows, currency).encode(), content_type=f"{CSV}; charset=utf-8")
        return Reply(msgspec.json.encode(report(question, rows, currency)))

    async def of_endpoint(self, tenant: str, name: str) -> EndpointUsage:
        """What the tenant took of its own endpoint this month."""
        question = read_question({"by": "", "endpoint": name}, today(self._wall_s()), tenant)
        rows = await self._rows(question)
        taken = rows[0][1] if rows else Amounts()
        return EndpointUsage(since=question.first, **shown_amounts(taken), currency=self._prices().currency)

    async def _rows(self, question: UsageQuestion) -> list[Total]:
        first, last = question.days
        rows = await self._book.totals(question.by, first, last, question.tenant, question.endpoint, MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise InvalidInput(f"that is more than {MOST_ROWS} lines; ask for fewer days, or by less", param="by")
        return rows
