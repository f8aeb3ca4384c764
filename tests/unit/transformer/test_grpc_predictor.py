"""The predictor over gRPC: the conformance suite of token sources over the real service, model and holder, in memory.

The channel alone stands in: bytes go to the service's handlers and come back as gRPC's core would pass them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
import grpc.aio
import pytest
from memory_call import MemoryCall
from scripted_engine import ScriptedProvider
from token_source_conformance import Running, TokenSourceConformance, asked, ready_holder, running_on

from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.errors import NotSupported, PilotlightError, Unavailable
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.grpc_messages import ModelStreamInferResponse
from pilotlight_serving.grpc_service import InferenceService
from pilotlight_serving.kserve_messages import predict_v2 as pb
from pilotlight_serving.settings import ServerSettings
from pilotlight_transformer.grpc_predictor import GrpcPredictor
from pilotlight_wire.upstream_address import UpstreamAddress

pytestmark = pytest.mark.looptime


class ClientCall:
    """The client's end of a call: awaited for a whole answer, read for a stream."""

    def __init__(self, services: Any, method: str, message: bytes, metadata: Any, read: Callable[[bytes], Any]) -> None:
        self._served = MemoryCall(message, metadata=metadata)
        self._read = read
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._served.written = self  # type: ignore[assignment]  # what is written goes to the queue
        self._task = asyncio.create_task(self._served.run(services, method.removeprefix("/")))
        self._task.add_done_callback(lambda _: self._arrived.put_nowait(None))

    def append(self, message: bytes) -> None:
        self._arrived.put_nowait(message)

    def _check(self) -> None:
        if self._served.code is not None:
            metadata = grpc.aio.Metadata(*self._served.trailing.items())
            raise grpc.aio.AioRpcError(self._served.code, grpc.aio.Metadata(), metadata, self._served.details)

    def __await__(self) -> Generator[Any, None, Any]:
        said = yield from self._task.__await__()
        self._check()
        return self._read(said)

    async def read(self) -> Any:
        said = await self._arrived.get()
        if said is not None:
            return self._read(said)
        self._check()
        return grpc.aio.EOF

    async def initial_metadata(self) -> Any:
        return ()

    async def trailing_metadata(self) -> Any:
        return tuple(self._served.trailing.items())

    def cancel(self) -> None:
        self._task.cancel()


class MemoryChannel:
    def __init__(self, services: Any) -> None:
        self._services = services

    def unary_unary(self, path: str, request_serializer: Any, response_deserializer: Any) -> Any:
        return lambda message, metadata, timeout: ClientCall(
            self._services, path, request_serializer(message), metadata, response_deserializer
        )

    def stream_stream(self, path: str, request_serializer: Any, response_deserializer: Any) -> Any:
        one = self.unary_unary(path, request_serializer, response_deserializer)
        return lambda messages, metadata, timeout: one(next(messages), metadata, timeout)

    async def close(self) -> None:
        pass


def over(services: Any) -> GrpcPredictor:
    made = GrpcPredictor(UpstreamAddress("h", 80, "demo.ns"), timeout_s=60)
    made._made = MemoryChannel(services)
    return made


@pytest.fixture
def has_logprobs() -> bool:
    return False


@pytest.fixture
def streams_are_silent() -> bool:
    return True


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider(step_s=0.001)


@pytest.fixture
async def source(provider: ScriptedProvider) -> AsyncIterator[GrpcPredictor]:
    async with ready_holder(provider) as holder:
        model = TokensModel("demo", holder, RequestLimits(), QueueLimits(), ["adapter"])
        limiter = ConcurrencyLimiter(64)
        plane = DataPlane(model, limiter, model_control=False)
        yield over(InferenceService(plane, limiter, ServerSettings()).handler())


@pytest.fixture
def running(provider: ScriptedProvider) -> Running:
    return running_on(provider)


class TestGrpcPredictor(TokenSourceConformance):
    pass


async def test_what_the_wire_has_no_place_for_is_refused(source: GrpcPredictor) -> None:
    with pytest.raises(NotSupported, match="log-probabilities"):
        await source.stream(asked([1], logprobs=1))


def answering(
    *said: Any, ends: tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]] | None = None
) -> GrpcPredictor:
    """A predictor that says these messages to whatever it is asked, and then ends the call so."""

    async def stream(requests: Any, call: Any) -> None:
        for message in said:
            await call.write(message)
        if ends is not None:
            await call.abort(*ends)

    async def whole(requests: Any, call: Any) -> Any:
        if ends is not None:
            await call.abort(*ends)
        return said[0]

    methods = {
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            stream, pb.ModelInferRequest.FromString, ModelStreamInferResponse.SerializeToString
        ),
        "ModelInfer": grpc.stream_unary_rpc_method_handler(
            whole, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        ),
    }
    return over(grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("code", "retry_after", "param", "status", "told"),
    [
        (grpc.StatusCode.UNAVAILABLE, "7", None, 503, "said so"),
        (grpc.StatusCode.NOT_FOUND, None, None, 404, "said so"),
        (grpc.StatusCode.INVALID_ARGUMENT, None, "max_tokens", 400, "said so"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, None, None, 504, "did not answer in time"),
        (grpc.StatusCode.DATA_LOSS, None, None, 500, "said so"),
    ],
)
async def test_codes_become_the_errors_of_a_client(
    whole: bool, code: grpc.StatusCode, retry_after: str | None, param: str | None, status: int, told: str
) -> None:
    told_by = (("retry-after", retry_after), ("x-pilotlight-param", param))
    trailing = tuple((name, value) for name, value in told_by if value is not None)
    with pytest.raises(PilotlightError, match=told) as refused:
        await answering(ends=(code, "said so", trailing)).stream(asked([1], whole=whole))
    error = refused.value
    assert (error.http_status, error.retry_after_header, error.param_header) == (status, retry_after, param)


async def test_a_stream_that_ends_before_its_generation_is_never_an_answer() -> None:
    with pytest.raises(Unavailable, match="before the generation was complete"):
        await answering().stream(asked([1]))


@pytest.mark.parametrize("whole", [False, True])
async def test_an_answer_without_its_tensors_is_the_predictors_fault(whole: bool) -> None:
    said = pb.ModelInferResponse(model_name="demo") if whole else ModelStreamInferResponse()
    with pytest.raises(Unavailable, match="tensors are missing"):
        await answering(said).stream(asked([1], whole=whole))
