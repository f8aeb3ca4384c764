"""The routes of Responses. What answers them is imported when the first request comes: no start pays for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pilotlight_text.resumption.current_record import now_s, random_token
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route, Stream

if TYPE_CHECKING:
    from pilotlight_text.responses_api.handlers import Responses
    from pilotlight_text.responses_api.response_store import ResponseStore

PREFIXES = ("/openai/v1", "/v1")


def responses_routes(
    model: TextModel,
    now_s: Callable[[], float] = now_s,
    new_token: Callable[[], str] = lambda: random_token(24),
    stored: ResponseStore | None = None,
) -> list[Route]:
    """`stored`: where several models keep theirs; None for one of its own."""
    made: list[Responses] = []

    def responses() -> Responses:
        if not made:
            from pilotlight_text.responses_api.handlers import Responses
            from pilotlight_text.responses_api.response_store import KeptHere

            made.append(Responses(model, stored or KeptHere(), now_s, new_token))
        return made[0]

    async def create(context: RequestContext) -> Reply | Stream:
        return await responses().create(context)

    async def count_input_tokens(context: RequestContext) -> Reply:
        return await responses().count_input_tokens(context)

    async def retrieve(context: RequestContext) -> Reply:
        return await responses().retrieve(context)

    async def delete(context: RequestContext) -> Reply:
        return await responses().delete(context)

    async def cancel(context: RequestContext) -> Reply:
        return await responses().cancel(context)

    async def input_items(context: RequestContext) -> Reply:
        return await responses().input_items(context)

    return [
        route
        for prefix in PREFIXES
        for route in (
            Route("POST", f"{prefix}/responses", create),
            Route("POST", f"{prefix}/responses/input_tokens", count_input_tokens),
            Route("GET", f"{prefix}/responses/{{response_id}}", retrieve, counted=False),
            Route("DELETE", f"{prefix}/responses/{{response_id}}", delete, counted=False),
            Route("POST", f"{prefix}/responses/{{response_id}}/cancel", cancel, counted=False),
            Route("GET", f"{prefix}/responses/{{response_id}}/input_items", input_items, counted=False),
        )
    ]
