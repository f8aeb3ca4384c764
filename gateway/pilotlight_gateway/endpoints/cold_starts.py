"""The last cold starts of each endpoint, as their requests had them: which way, how long, and how the engine was got.

In memory, of this process alone. Pure but for the clock that it is given.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.ways import WAY_HEADER

LEASE_HEADER = "x-pilotlight-lease"
MOST_KEPT = 16
MOST_ENDPOINTS = 4096


class ColdStart(msgspec.Struct, frozen=True):
    """`first_ms`: until the first part of the answer was there. `way` with its reason; `lease`: how the pool got the
    engine (`loaded`, `swap`, `fork`, `boot`), "" where the pods got one."""

    at_s: float
    way: str
    first_ms: float
    lease: str


class ColdStarts:
    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        self._wall_s = wall_s
        self._of: OrderedDict[tuple[str, str], deque[ColdStart]] = OrderedDict()

    def begun(self, request: GatewayRequest, first_s: float) -> bool:
        """The first part of an answer is there, `first_s` after the request. Whether that was a cold start."""
        headers = request.context.response_headers
        lease = headers.get(LEASE_HEADER)
        way = headers.get(WAY_HEADER, "")
        if lease is None and (request.entry.pods_ready or not way.startswith("pods")):
            return False
        path = (lease or "").partition("path=")[2].partition(";")[0].strip()
        start = ColdStart(round(self._wall_s(), 3), way, round(first_s * 1000, 1), path)
        known = self._of.get(request.entry.key)
        if known is None:
            known = self._of[request.entry.key] = deque(maxlen=MOST_KEPT)
            if len(self._of) > MOST_ENDPOINTS:
                self._of.popitem(last=False)
        self._of.move_to_end(request.entry.key)
        known.append(start)
        return True

    def of(self, namespace: str, name: str) -> tuple[ColdStart, ...]:
        """The latest first."""
        return tuple(reversed(self._of.get((namespace, name), ())))
