"""The routes of Messages. What answers them is imported when the first request comes: no start pays for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pilotlight_text.resumption.current_record import random_token
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route, Stream

if TYPE_CHECKING:
    from pilotlight_text.anthropic_api.handlers import Messages

PREFIXES = ("/openai/v1", "/v1")
"""Anthropic's clients end their base URL before `/v1`."""


def messages_routes(model: TextModel, new_token: Callable[[], str] = lambda: random_token(12)) -> list[Route]:
    made: list[Messages] = []

    def messages() -> Messages:
        if not made:
            from pilotlight_text.anthropic_api.handlers import Messages

            made.append(Messages(model, new_token))
        return made[0]

    async def create(context: RequestContext) -> Reply | Stream:
        return await messages().create(context)

    async def count_tokens(context: RequestContext) -> Reply:
        return await messages().count_tokens(context)

    return [
        route
        for prefix in PREFIXES
        for route in (
            Route("POST", f"{prefix}/messages", create),
            Route("POST", f"{prefix}/messages/count_tokens", count_tokens),
        )
    ]
