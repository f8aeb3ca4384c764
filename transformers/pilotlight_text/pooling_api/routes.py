"""The routes of pooling models. What answers them is imported when somebody asks: no start from zero pays for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route

PREFIXES = ("/openai/v1", "/v1")
ROOT_PATHS = {"/rerank": "rerank", "/v2/rerank": "rerank", "/score": "score"}
"""vLLM's, outside of OpenAI's tree: Jina's clients and Cohere's look for them there."""


def pooling_routes(model: TextModel, now_s: Callable[[], float] = time.time) -> list[Route]:
    async def embeddings(context: RequestContext) -> Reply:
        from pilotlight_text.pooling_api.embeddings import embeddings

        return await embeddings(model, context, now_s)

    async def rerank(context: RequestContext) -> Reply:
        from pilotlight_text.pooling_api.scores import rerank

        return await rerank(model, context, now_s)

    async def score(context: RequestContext) -> Reply:
        from pilotlight_text.pooling_api.scores import score

        return await score(model, context, now_s)

    handlers = {"embeddings": embeddings, "rerank": rerank, "score": score}
    return [
        *(Route("POST", f"{prefix}/{name}", handler) for prefix in PREFIXES for name, handler in handlers.items()),
        *(Route("POST", path, handlers[name]) for path, name in ROOT_PATHS.items()),
    ]
