"""The pipeline's step that keeps what requests tell of their endpoints: how they began, and what they took."""

from __future__ import annotations

from pilotlight_gateway.endpoints.cold_starts import ColdStarts
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.routing.target_waits import TargetWaits, start_s
from pilotlight_gateway.usage.usage_book import UsageBook


class EndpointRecords:
    """Implements Records. `book`: None where nothing is kept. `waits`: what learns from cold starts, of which routes
    tell it themselves."""

    def __init__(self, cold_starts: ColdStarts, book: UsageBook | None, waits: TargetWaits) -> None:
        self.cold_starts = cold_starts
        self.book = book
        self._waits = waits

    def begun(self, request: GatewayRequest, first_s: float) -> None:
        if self.cold_starts.begun(request, first_s) and request.routed is None:
            self._waits.started(request.entry, start_s(request))

    def ended(self, request: GatewayRequest, status: int) -> None:
        if self.book is not None:
            self.book.ended(request, status)
