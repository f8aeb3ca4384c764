"""The routes of render and derender. What answers them is imported when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable

from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Route

PREFIXES = ("/openai/v1", "/v1")


def split_routes(model: TextModel, now_s: Callable[[], float] = time.time) -> list[Route]:
    async def render_chat(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import rendering

        return await rendering.render_chat(model, context)

    async def render_completion(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import rendering

        return await rendering.render_completion(model, context)

    async def render_message(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import surface_rendering

        return await surface_rendering.render_message(model, context)

    async def render_response(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import surface_rendering

        return await surface_rendering.render_response(model, context)

    async def derender_chat(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import derendering

        return await derendering.derender_chat(model, context, int(now_s()))

    async def derender_completion(context: RequestContext) -> Reply:
        from pilotlight_text.split_api import derendering

        return await derendering.derender_completion(model, context, int(now_s()))

    return [
        Route("POST", f"{prefix}{path}", handler)
        for prefix in PREFIXES
        for path, handler in (
            ("/chat/completions/render", render_chat),
            ("/completions/render", render_completion),
            ("/messages/render", render_message),
            ("/responses/render", render_response),
            ("/chat/completions/derender", derender_chat),
            ("/completions/derender", derender_completion),
        )
    ]
