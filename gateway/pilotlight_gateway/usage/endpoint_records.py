"""The pipeline's step that keeps what requests tell of their endpoints: how they began, and what they took."""

from __future__ import annotations

from pilotlight_gateway.endpoints.cold_starts import ColdStarts
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.usage.usage_book import UsageBook


class EndpointRecords:
    """Implements Records. `book`: None where nothing is kept."""

    def __init__(self, cold_starts: ColdStarts, book: UsageBook | None) -> None:
        self.cold_starts = cold_starts
        self.book = book

    def begun(self, request: GatewayRequest, first_s: float) -> None:
        self.cold_starts.begun(request, first_s)

    def ended(self, request: GatewayRequest, status: int) -> None:
        if self.book is not None:
            self.book.ended(request, status)
