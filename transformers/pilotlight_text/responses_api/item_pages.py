"""One page of a response's input items, as the query asks for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight_protocol.errors import InvalidInput

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> tuple[list[dict[str, Any]], bool]:
    """The items, and whether there are more behind them. Raises InvalidInput with `param`."""
    order, limit = query.get("order", "desc"), query.get("limit", str(DEFAULT_LIMIT))
    if order not in ("asc", "desc"):
        raise InvalidInput("'order' must be 'asc' or 'desc'", param="order")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= MAX_LIMIT):
        raise InvalidInput(f"'limit' must be 1 to {MAX_LIMIT}", param="limit")
    ordered = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise InvalidInput(f"'after': there is no item '{after[:80]}'", param="after")
        ordered = ordered[places[0] + 1 :]
    return ordered[: int(limit)], len(ordered) > int(limit)
