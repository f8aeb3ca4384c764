"""The OpenAI routes and the models they list."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pilotlight_text.openai_api.model_cards import ModelCard, ModelList
from pilotlight_text.resumption.current_record import now_s
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Handler, Reply, RequestContext, Route, Stream

PREFIXES = ("/openai/v1", "/v1")


def openai_routes(model: TextModel, now_s: Callable[[], float] = now_s) -> list[Route]:
    def chat() -> Handler:
        from pilotlight_text.openai_api.chat import ChatCompletions

        return ChatCompletions(model, now_s).handle

    def completions() -> Handler:
        from pilotlight_text.openai_api.completions import Completions

        return Completions(model, now_s).handle

    answer_chat, complete, listing = made_when_asked(chat), made_when_asked(completions), ModelListing(model)
    return [
        route
        for prefix in PREFIXES
        for route in (
            Route("GET", f"{prefix}/models", listing.all, counted=False),
            Route("GET", f"{prefix}/models/{{model_name...}}", listing.one, counted=False),
            Route("POST", f"{prefix}/completions", complete),
            Route("POST", f"{prefix}/chat/completions", answer_chat),
        )
    ]


def made_when_asked(make: Callable[[], Handler]) -> Handler:
    """A handler that is imported and made with its first request: no start pays for it."""
    made: list[Handler] = []

    async def handle(context: RequestContext) -> Reply | Stream:
        if not made:
            made.append(make())
        return await made[0](context)

    return handle


class ModelListing:
    def __init__(self, model: TextModel) -> None:
        self._model = model

    async def all(self, context: RequestContext) -> Reply:
        return _json(ModelList("list", [self._card(name) for name in self._model.names]))

    async def one(self, context: RequestContext) -> Reply:
        return _json(self._card(context.model_name))

    def _card(self, name: str) -> ModelCard:
        loaded = self._model.loaded()
        length = loaded.codec.max_model_len
        return ModelCard(name, "model", loaded.loaded_at_s, "pilotlight", msgspec.UNSET if length is None else length)


def _json(value: ModelList | ModelCard) -> Reply:
    return Reply(msgspec.json.encode(value))
