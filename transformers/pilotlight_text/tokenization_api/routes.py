"""The tokenizer's routes. What answers them is imported when somebody asks: no start from zero pays for it."""

from __future__ import annotations

from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route

PREFIXES = ("", "/v1", "/openai/v1")
"""vLLM has them at the root; below the others they are where a client's base URL ends."""


def tokenization_routes(model: TextModel) -> list[Route]:
    async def tokenize(context: RequestContext) -> Reply:
        from pilotlight_text.tokenization_api import handlers

        return await handlers.tokenize(model, context)

    async def detokenize(context: RequestContext) -> Reply:
        from pilotlight_text.tokenization_api import handlers

        return await handlers.detokenize(model, context)

    return [
        Route("POST", f"{prefix}/{verb}", handler)
        for prefix in PREFIXES
        for verb, handler in (("tokenize", tokenize), ("detokenize", detokenize))
    ]
