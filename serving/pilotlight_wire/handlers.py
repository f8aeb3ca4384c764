"""What a component plugs into the serving shell: a `ServedModel`, its routes, and what a handler gets and gives.

No I/O is done here, and KServe is not imported: a component can build its model before the web stack is loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse

JSON = "application/json"
OCTETS = "application/octet-stream"


@dataclass(slots=True)
class RequestContext:
    """One request, whether it came by HTTP or by gRPC.

    `headers`: lower-case names (gRPC: the call's metadata). `body`: whole and within the size limit (gRPC: empty).
    `model_name`: from the path or the gRPC message, "" for routes without one. `server_timing`: phase -> milliseconds,
    sent as `Server-Timing` and observed as a histogram. `response_headers`: sent when the response starts.
    `path_parameters`: what stands where the route's path has a name in braces. `pieces`: the body as it arrives, for a
    route that reads it itself; `body` is empty then. `about`: what a server's own steps know of the request, for its
    log. `ends_s`: by `time.monotonic`, until when its sender waits for the answer to begin, None where nobody says.
    """

    request_id: str
    headers: Mapping[str, str]
    body: bytes = b""
    model_name: str = ""
    model_version: str = ""
    server_timing: dict[str, float] = field(default_factory=dict)
    response_headers: dict[str, str] = field(default_factory=dict)
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    query_string: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    about: object = None
    ends_s: float | None = None

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, the last of each name; what is no query has none."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True))


@dataclass(slots=True)
class Reply:
    """A whole response."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """A response in pieces. The shell pulls the first piece before it starts the response, so that an error raised
    until then keeps its status; an error after it becomes an error event. The shell closes the iterator."""

    events: AsyncIterator[bytes]
    content_type: str = "text/event-stream"


Handler = Callable[[RequestContext], Awaitable[Reply | Stream]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has `{model_name}`, `{version}` and names of its own as whole segments; `{model_name...}` at its end is
    all that are left. A route with `{model_name}` is answered 404 by the shell when the model does not serve that
    name or version.

    `counted`: the request holds a place of the concurrency bound, delays the end of a drain and is timed in
    `request_predict_seconds`; False for probes and metadata. `content_types`: what a body may be. `reads_body`: the
    body is read before the handler runs, within the server's limit; else the handler reads its pieces, and bounds them.
    `admit`: asked with the head of a request whose body is large or not here yet, before any of it is read; raises what
    the client is refused with, which gives its place back at once. The handler asks again. `keeps_time`: the handler
    itself ends when the sender waits no longer; any other is ended.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    handler: Handler
    counted: bool = True
    content_types: tuple[str, ...] = (JSON,)
    reads_body: bool = True
    admit: Callable[[RequestContext], Awaitable[None]] | None = None
    keeps_time: bool = False


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor as V2 describes it; -1 stands for a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ServedModel(Protocol):
    """What a component serves. Methods raise PilotlightError; anything else is a bug and answered 500.

    When the client is gone the shell cancels the running call, which must then end its work in `finally`.
    """

    name: str
    version: str

    def metadata(self) -> ModelMetadata: ...

    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        ...

    def why_not_ready(self) -> Unavailable:
        """The answer to a readiness probe while `ready()` is False: the reason and when to try again."""
        ...

    def names(self) -> Sequence[str]:
        """Every name it answers to: its own, then its adapters'."""
        ...

    def serves(self, model_name: str) -> bool: ...

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse: ...

    def stream_infer(self, request: InferRequest, context: RequestContext) -> AsyncIterator[InferResponse]:
        """The responses of one request of gRPC's ModelStreamInfer."""
        ...

    def routes(self) -> Sequence[Route]: ...

    def openapi(self) -> Mapping[str, Any]:
        """`paths` and `components` of its own routes and of its infer tensors, merged into the served document."""
        ...

    async def load(self) -> None: ...

    async def unload(self) -> None: ...

    async def metrics(self) -> bytes:
        """Prometheus text that is appended to `/metrics`."""
        ...
