"""Which class of priority a request has: what it asks for, and no more than its key may. Pure.

    x-pilotlight-priority: high | normal | low | idle     the class, capped by the key's
    "service_tier": "flex"                                OpenAI's word for low
    neither, or another tier                              the key's class

vLLM's `priority` orders a request among those of its class (`pilotlight_protocol.request_priority`).
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight_gateway.request_steps import PriorityClass
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.request_priority import PRIORITIES, PRIORITY_HEADER, RANK, RequestPriority

_FLEX = "flex"


def priority_of(cap: PriorityClass, headers: Mapping[str, str], service_tier: str | None) -> RequestPriority:
    """Raises InvalidInput for a class that there is not."""
    asked = headers.get(PRIORITY_HEADER)
    if asked is None:
        return cap if service_tier is None or service_tier != _FLEX else "low"
    rank = RANK.get(asked.strip().lower())
    if rank is None:
        raise InvalidInput(
            f"{PRIORITY_HEADER} must be one of {', '.join(PRIORITIES)}, not '{asked[:40]}'", param=PRIORITY_HEADER
        )
    return PRIORITIES[max(rank, RANK[cap])]
