"""What the gRPC service stands on: a server of one model (`data_plane`), or whoever else answers V2 by gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_serving.data_plane import ModelIndex, ServerMetadata
from pilotlight_wire.handlers import ModelMetadata, RequestContext


class GrpcPlane(Protocol):
    """A call's `context` names its model and version, and has its metadata as headers. `name`: of what is served, for
    metrics. Methods raise PilotlightError."""

    @property
    def name(self) -> str: ...

    def ready(self) -> bool:
        """Of the server as a whole."""
        ...

    def serves(self, service: str) -> bool:
        """Whether health may be asked for under that name."""
        ...

    def require(self, model_name: str, version: str = "") -> None:
        """Raises ModelNotFound where it is known, before anything of the request is read, that there is none."""
        ...

    def server_metadata(self) -> ServerMetadata: ...

    async def is_ready(self, context: RequestContext) -> bool: ...

    async def metadata(self, context: RequestContext) -> ModelMetadata: ...

    async def repository(self, context: RequestContext, only_ready: bool) -> Sequence[ModelIndex]: ...

    async def load(self, context: RequestContext) -> None: ...

    async def unload(self, context: RequestContext) -> None: ...

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse: ...

    async def stream_infer(
        self, request: InferRequest, context: RequestContext, send: Callable[[InferResponse, bool], Awaitable[None]]
    ) -> None: ...
