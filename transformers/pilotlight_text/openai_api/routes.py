"""The OpenAI routes and the models they list."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from pilotlight_protocol.errors import NotSupported
from pilotlight_text.openai_api.chat import ChatCompletions
from pilotlight_text.openai_api.completions import Completions
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route

PREFIXES = ("/openai/v1", "/v1")


def openai_routes(model: TextModel, now_s: Callable[[], float] = time.time) -> list[Route]:
    chat, completions, listing = ChatCompletions(model, now_s), Completions(model, now_s), ModelListing(model)
    return [
        route
        for prefix in PREFIXES
        for route in (
            Route("GET", f"{prefix}/models", listing.all, "openai", counted=False),
            Route("GET", f"{prefix}/models/{{model_name}}", listing.one, "openai", counted=False),
            Route("POST", f"{prefix}/completions", completions.handle, "openai"),
            Route("POST", f"{prefix}/chat/completions", chat.handle, "openai"),
            Route("POST", f"{prefix}/embeddings", embeddings, "openai", counted=False),
        )
    ]


async def embeddings(context: RequestContext) -> Reply:
    raise NotSupported("this model generates text and has no embeddings; use /openai/v1/completions", param="model")


class ModelListing:
    def __init__(self, model: TextModel) -> None:
        self._model = model

    async def all(self, context: RequestContext) -> Reply:
        return _json({"object": "list", "data": [self._card(name) for name in self._model.names]})

    async def one(self, context: RequestContext) -> Reply:
        return _json(self._card(context.model_name))

    def _card(self, name: str) -> dict[str, Any]:
        loaded = self._model.loaded()
        card = {"id": name, "object": "model", "created": loaded.loaded_at_s, "owned_by": "pilotlight"}
        length = loaded.codec.max_model_len
        return card if length is None else card | {"max_model_len": length}


def _json(value: dict[str, Any]) -> Reply:
    return Reply(msgspec.json.encode(value))
