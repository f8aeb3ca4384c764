"""The text API's routes over one endpoint, as its transformer has them; without those that are the gateway's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pilotlight_gateway.surfaces import PLACEHOLDER
from pilotlight_protocol.errors import Forbidden, Unavailable
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.http_app import RouteTable
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_text.responses_api.response_store import ResponseStore
from pilotlight_text.served_text import ServedText
from pilotlight_text.text_model import TextModel
from pilotlight_text.token_source import TokenRequest, TokenStream
from pilotlight_wire.handlers import Route

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall

PLATFORM = "pilotlight_gateway"


class _Endpoint(ServedText):
    def openapi(self) -> Mapping[str, Any]:
        return {}

    async def load(self) -> None:
        raise Forbidden("clients may not load or unload models through the gateway")

    unload = load


def endpoint_routes(model: TextModel, stored: ResponseStore) -> RouteTable:
    served = _Endpoint(model, PLATFORM, stored)
    # Nothing is counted here: the gateway's own limiter has done that.
    plane = DataPlane(served, ConcurrencyLimiter(1), model_control=False)
    v2 = [route for route in V2Routes(plane, served.openapi).routes() if route.path.startswith("/v2/models/")]
    return RouteTable([*v2, *_over_a_model(served.routes())])


def any_endpoints_routes(stored: ResponseStore) -> RouteTable:
    """Those of an endpoint called `PLACEHOLDER`, for their paths, and for what is kept in `stored`."""
    return endpoint_routes(TextModel((PLACEHOLDER,), _NoTokens()), stored)


class _NoTokens:
    async def stream(self, request: TokenRequest) -> TokenStream:
        raise Unavailable("no endpoint")

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        raise Unavailable("no endpoint")

    async def close(self) -> None:
        return


def _over_a_model(routes: Sequence[Route]) -> list[Route]:
    """Without OpenAI's list of models, which is over all endpoints."""
    return [route for route in routes if "/v1/models" not in route.path]
