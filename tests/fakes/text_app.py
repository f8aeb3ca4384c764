"""The transformer's routes behind the real HTTP app, called through ASGI: no socket, no process, a fake source."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import cache
from typing import Any, cast

import httpx
from fake_token_source import FakeTokenSource
from inline_templates import InlineTemplates
from tokenizers import Tokenizer

from pilotlight_models import bundled_model_path
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.http_app import HttpApp, ModelRouter
from pilotlight_serving.metrics import predict_observer
from pilotlight_serving.openapi_document import openapi_document
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.text_loading import load_text
from pilotlight_transformer.served_text_model import ServedTextModel
from pilotlight_transformer.settings import TransformerSettings

MODEL_URI = "bundled://demo-awq"


def own_text() -> LoadedText:
    """For a model that closes it, when it is unloaded or its server ends."""
    return load_text(MODEL_URI, 512, InlineTemplates(), {})


@cache
def demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_model_path("demo-awq") / "tokenizer.json"))


def demo_ids(text: str, special: bool = False) -> list[int]:
    return list(demo_tokenizer().encode(text, add_special_tokens=special).ids)


@cache
def demo_text() -> LoadedText:
    """One for all tests of a process: nobody may close it."""
    return own_text()


class Templates(InlineTemplates):
    """Stands in for the workers, which a served model also warms up and closes."""

    def warm_up(self) -> None:
        return

    async def close(self) -> None:
        return


class TextApp:
    def __init__(
        self, source: FakeTokenSource, *, loaded: bool = True, text: LoadedText | None = None, **settings: Any
    ) -> None:
        self.settings = TransformerSettings("demo", MODEL_URI, "nowhere", lora_names=("tuned",), max_model_len=512)
        self.source = source
        self.model = ServedTextModel(self.settings, source, cast(TemplateWorkers, Templates()))
        if loaded:
            self.model._model.set_loaded(text or demo_text())
        server = ServerSettings(**settings)
        limiter = ConcurrencyLimiter(server.max_concurrent_requests)
        plane = DataPlane(self.model, limiter, model_control=server.model_control)
        routes = [*V2Routes(plane, lambda: openapi_document(self.model)).routes(), *self.model.routes()]
        self.app = HttpApp(ModelRouter(routes, self.model), limiter, server, predict_observer(self.model.name))

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=cast(Any, self.app), raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client() as client:
            given = {"content-type": "application/json", **headers}
            return await client.post(path, content=content, headers=given)

    @contextlib.asynccontextmanager
    async def living(self, loading: Future[LoadedText], stopped: list[bool]) -> AsyncIterator[None]:
        async with self.model.lifespan(loading, lambda: stopped.append(True)):
            yield


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON of each server-sent event; `[DONE]` as text."""
    blocks = [block.removeprefix("data: ") for block in response.text.split("\n\n") if block]
    return [block if block == "[DONE]" else json.loads(block) for block in blocks]
