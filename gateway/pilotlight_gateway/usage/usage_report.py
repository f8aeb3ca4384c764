"""What a question about usage means, and how its answer is written. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from pilotlight_gateway.usage.prices import shown_cost
from pilotlight_gateway.usage.usage_rows import Amounts, Total
from pilotlight_protocol.errors import InvalidInput

COLUMNS = ("day", "tenant", "endpoint", "model")
MOST_DAYS = 400
MOST_ROWS = 50_000
_EPOCH = date(1970, 1, 1)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class UsageQuestion(msgspec.Struct, frozen=True):
    """Days are of UTC, both included. `tenant` and `endpoint`: None for all."""

    first: date
    last: date
    by: tuple[str, ...]
    tenant: str | None = None
    endpoint: str | None = None

    @property
    def days(self) -> tuple[int, int]:
        return day_number(self.first), day_number(self.last)


def day_number(day: date) -> int:
    return (day - _EPOCH).days


def read_question(query: Mapping[str, str], today: date, tenant: str | None) -> UsageQuestion:
    """`?from=2026-11-01&to=2026-11-30&by=endpoint,day&endpoint=NAME`; this month by endpoint and day without them.
    `tenant`: whose it may be about, None for everybody's. Raises InvalidInput."""
    last = _day(query, "to", today)
    first = _day(query, "from", last.replace(day=1))
    if first > last:
        raise InvalidInput(f"'from' ({first}) must not be after 'to' ({last})", param="from")
    if (last - first).days >= MOST_DAYS:
        raise InvalidInput(f"ask for {MOST_DAYS} days at most", param="from")
    default = "endpoint,day" if tenant is not None else "tenant,endpoint,day"
    by = tuple(word.strip() for word in query.get("by", default).split(",") if word.strip())
    for word in by:
        if word not in COLUMNS or by.count(word) > 1:
            raise InvalidInput(f"'by' is made of {', '.join(COLUMNS)}, each once, not {word[:40]!r}", param="by")
    endpoint = query.get("endpoint")
    if endpoint is not None and "/" not in endpoint:
        if tenant is None:
            raise InvalidInput("'endpoint' is NAMESPACE/NAME here", param="endpoint")
        endpoint = f"{tenant}/{endpoint}"
    return UsageQuestion(first, last, by, tenant, endpoint)


def _day(query: Mapping[str, str], name: str, default: date) -> date:
    text = query.get(name)
    if text is None:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"'{name}' is a day as 2026-11-28, not {text[:40]!r}", param=name) from error


def today(now_s: float) -> date:
    return datetime.fromtimestamp(now_s, UTC).date()


class ShownAmounts(msgspec.Struct, frozen=True, kw_only=True):
    """`cost` is a text: an exact decimal, which not every reader of JSON numbers keeps."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    slot_seconds: float
    cost: str


class UsageRow(ShownAmounts, frozen=True, kw_only=True):
    """Of what the question is `by`."""

    day: str | msgspec.UnsetType = msgspec.UNSET
    tenant: str | msgspec.UnsetType = msgspec.UNSET
    endpoint: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET


class UsageReport(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    first: date
    last: date
    by: tuple[str, ...]
    currency: str
    usage: list[UsageRow]
    total: ShownAmounts


class EndpointUsage(ShownAmounts, frozen=True, kw_only=True):
    """`since`: a day of UTC."""

    since: date
    currency: str


def report(question: UsageQuestion, rows: Sequence[Total], currency: str) -> UsageReport:
    total = Amounts()
    for _, amounts in rows:
        total.add(amounts)
    lines = [UsageRow(**_named(question.by, group), **shown_amounts(amounts)) for group, amounts in rows]
    return UsageReport(
        question.first, question.last, question.by, currency, lines, ShownAmounts(**shown_amounts(total))
    )


def csv_of(question: UsageQuestion, rows: Sequence[Total], currency: str) -> str:
    """With a line of headings. What a spreadsheet would take for a formula is text in it (OWASP: CSV injection)."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow([*question.by, *shown_amounts(Amounts()), "currency"])
    for group, amounts in rows:
        names = [_harmless(str(cell)) for cell in _named(question.by, group).values()]
        writer.writerow([*names, *shown_amounts(amounts).values(), currency])
    return written.getvalue()


def shown_amounts(amounts: Amounts) -> dict[str, Any]:
    return {
        "requests": amounts.requests,
        "prompt_tokens": amounts.prompt_tokens,
        "cached_tokens": amounts.cached_tokens,
        "output_tokens": amounts.output_tokens,
        "slot_seconds": amounts.slot_ms / 1000,
        "cost": shown_cost(amounts.cost),
    }


def _named(by: Iterable[str], group: tuple[str | int, ...]) -> dict[str, Any]:
    return {
        name: (_EPOCH + timedelta(days=value)).isoformat() if isinstance(value, int) else value
        for name, value in zip(by, group, strict=True)
    }


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
