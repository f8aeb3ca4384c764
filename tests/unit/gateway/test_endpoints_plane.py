"""gRPC at the gateway, in memory: each call is the REST request it stands for, and its answer comes back as it was."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from memory_call import MemoryCall

from pilotlight_gateway.grpc_door.endpoints_plane import EndpointsPlane
from pilotlight_gateway.request_steps import Caller, Place
from pilotlight_protocol.errors import ModelNotFound, PilotlightError, TooManyRequests, Unauthorized
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.grpc_messages import ModelStreamInferResponse, set_parameter
from pilotlight_serving.grpc_service import HEALTH_SERVICE, SERVICE, HealthService, InferenceService
from pilotlight_serving.kserve_messages import predict_v2 as pb
from pilotlight_serving.settings import ServerSettings
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.request_time import left_s

pytestmark = pytest.mark.looptime

ANSWER = {
    "model_name": "m",
    "model_version": "1",
    "id": "7",
    "parameters": {"prompt_tokens": 3},
    "outputs": [{"name": "text_output", "datatype": "BYTES", "shape": [1], "data": ["Hi ü"]}],
}
KEY = ("authorization", "Bearer k")


class World:
    """The pipeline, as far as the plane sees it: `answers` or raises, and keeps what it was asked."""

    def __init__(self, result: Reply | list[bytes] | PilotlightError) -> None:
        self.result = result
        self.asked: list[tuple[Place, RequestContext]] = []
        self.known = True
        self.closed = False
        self.limiter = ConcurrencyLimiter(8)
        plane = EndpointsPlane(self, lambda: self.known, lambda caller: [f"{caller.tenant}'s"], self.limiter)
        settings = ServerSettings()
        self.inference = InferenceService(plane, self.limiter, settings).handler()
        self.health = HealthService(plane, settings).handler()

    async def caller(self, context: RequestContext) -> Caller:
        if context.headers.get("authorization") != KEY[1]:
            raise Unauthorized("no such key")
        return Caller("team")

    async def answer(self, place: Place, context: RequestContext) -> Reply | Stream:
        await self.caller(context)
        self.asked.append((place, context))
        context.response_headers["x-pilotlight-way"] = "pods; a test"
        if isinstance(self.result, PilotlightError):
            raise self.result
        return Stream(self._events(self.result)) if isinstance(self.result, list) else self.result

    async def _events(self, events: list[bytes]) -> AsyncIterator[bytes]:
        try:
            for event in events:
                yield event
        finally:
            self.closed = True


def infer(text: bytes = b"Say", name: str = "team/m", **parameters: Any) -> bytes:
    message = pb.ModelInferRequest(model_name=name, id="7")
    tensor = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text)
    for key, value in parameters.items():
        set_parameter(message.parameters, key, value)
    return bytes(message.SerializeToString())


def whole(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(body).encode(), status, headers={name.replace("_", "-"): headers[name] for name in headers})


async def test_infer_is_the_rest_request_it_stands_for() -> None:
    world = World(whole(ANSWER))
    metadata: list[tuple[str, str | bytes]] = [
        KEY,
        ("x-request-id", "mine"),
        ("traceparent", "00-1"),
        ("x-odd-bin", b"\r\nx: y"),
        ("te", "trailers"),
    ]
    call = MemoryCall(infer(max_tokens=4), metadata=metadata)
    answer = pb.ModelInferResponse.FromString(await call.run(world.inference, f"{SERVICE}/ModelInfer"))
    assert (answer.id, list(answer.outputs[0].contents.bytes_contents)) == ("7", ["Hi ü".encode()])
    assert call.trailing["x-pilotlight-way"] == "pods; a test"
    ((place, context),) = world.asked
    assert (place.method, place.path, place.model) == ("POST", "/v2/models/team%2Fm/infer", "team/m")
    assert json.loads(context.body)["inputs"][0]["data"] == ["Say"]
    assert json.loads(context.body)["parameters"] == {"max_tokens": 4}
    assert context.headers["traceparent"] == "00-1"
    assert not {"x-odd-bin", "te"} & context.headers.keys()


@pytest.mark.parametrize(
    ("metadata", "deadline_s", "timeout_us", "most_s"),
    [
        ((), 9.0, 0, 9),
        ((("x-request-timeout", "7"),), 9.0, 0, 7),
        ((), math.inf, 5_000_000, 5),
        ((), math.inf, 0, None),
    ],
)
async def test_a_calls_deadline_is_its_requests_time(
    metadata: tuple[tuple[str, str], ...], deadline_s: float, timeout_us: int, most_s: float | None
) -> None:
    world = World(whole(ANSWER))
    call = MemoryCall(infer(timeout=timeout_us) if timeout_us else infer(), metadata=[KEY, *metadata])
    call.deadline_s = deadline_s
    await call.run(world.inference, f"{SERVICE}/ModelInfer")
    left = left_s(world.asked[0][1])
    assert (left is None) if most_s is None else (left is not None and most_s - 1 < left <= most_s)


async def test_bytes_that_are_no_text_are_sent_as_they_are() -> None:
    world = World(whole(ANSWER))
    await MemoryCall(infer(b"\xff\x00"), metadata=[KEY]).run(world.inference, f"{SERVICE}/ModelInfer")
    ((_, context),) = world.asked
    assert context.body.endswith(b"\x02\x00\x00\x00\xff\x00")
    assert context.headers["inference-header-content-length"] == str(len(context.body) - 6)


@pytest.mark.parametrize(
    ("result", "code", "trailing"),
    [
        (TooManyRequests("full", retry_after_s=3), "RESOURCE_EXHAUSTED", {"retry-after": "3"}),
        (ModelNotFound("no such model", param="model"), "NOT_FOUND", {"x-pilotlight-param": "model"}),
        (whole({"error": "later"}, 503, retry_after="9"), "UNAVAILABLE", {"retry-after": "9"}),
        (whole({"error": "wrong"}, 400, x_pilotlight_param="stop"), "INVALID_ARGUMENT", {"x-pilotlight-param": "stop"}),
        (Reply(b"<html>", 502), "UNAVAILABLE", {}),
        (Reply(b"<html>"), "INTERNAL", {}),
        ([b"data: {}\n\n"], "INTERNAL", {}),
    ],
)
async def test_errors_are_codes(result: Any, code: str, trailing: dict[str, str]) -> None:
    call = MemoryCall(infer(), metadata=[KEY])
    await call.run(World(result).inference, f"{SERVICE}/ModelInfer")
    assert call.code is not None
    assert call.code.name == code
    assert trailing.items() <= call.trailing.items()


async def test_without_a_key_nothing_is_told() -> None:
    world = World(whole(ANSWER))
    for method, message in (
        ("ModelInfer", infer()),
        ("ModelReady", pb.ModelReadyRequest(name="m").SerializeToString()),
        ("ModelMetadata", pb.ModelMetadataRequest(name="m").SerializeToString()),
        ("RepositoryIndex", b""),
    ):
        call = MemoryCall(message)
        await call.run(world.inference, f"{SERVICE}/{method}")
        assert call.code is not None
        assert call.code.name == "UNAUTHENTICATED"
    health = MemoryCall(b"\n\x01m")
    await health.run(world.health, f"{HEALTH_SERVICE}/Check")
    assert health.code is not None
    assert health.code.name == "NOT_FOUND"


async def test_a_stream_is_an_answer_for_each_event() -> None:
    events = [
        b'data: {"model_name":"m","model_version":"1","index":0,"text_output":"a","finish_reason":null}\n\ndata: {"t',
        b'ext_output":"b","finish_reason":"stop"}\r\n\r\n: a comment\n\n',
        b'data: {"error":"it broke","status":503}\n\n',
    ]
    world = World(events)
    call = MemoryCall(infer(triton_enable_empty_final_response=True), metadata=[KEY])
    await call.run(world.inference, f"{SERVICE}/ModelStreamInfer")
    told = [ModelStreamInferResponse.FromString(said) for said in call.written]
    texts = [list(each.infer_response.outputs[0].contents.bytes_contents) for each in told if not each.error_message]
    assert texts == [[b"a"], [b"b"]]
    assert told[-1].error_message == "it broke"
    assert told[-1].infer_response.parameters["status"].int64_param == 503
    ((place, context),) = world.asked
    assert place.path.endswith("/generate_stream")
    assert json.loads(context.body) == {"text_input": "Say", "id": "7"}
    assert world.closed


async def test_questions() -> None:
    metadata = {"name": "m", "versions": ["1"], "platform": "p", "inputs": [], "outputs": []}
    world = World(whole(metadata))

    async def ask(method: str, message: Any, answer: Any) -> Any:
        call = MemoryCall(message.SerializeToString(), metadata=[KEY])
        said = await call.run(world.inference, f"{SERVICE}/{method}")
        assert call.code is None, call.details
        return answer.FromString(said)

    assert (await ask("ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse)).platform == "p"
    assert (await ask("ModelReady", pb.ModelReadyRequest(name="m"), pb.ModelReadyResponse)).ready
    assert [place.path for place, _ in world.asked] == ["/v2/models/m", "/v2/models/m/ready"]
    world.result = whole({"error": "not yet"}, 503)
    assert not (await ask("ModelReady", pb.ModelReadyRequest(name="m"), pb.ModelReadyResponse)).ready
    assert (await ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    world.limiter.start_draining()
    assert not (await ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    assert (await ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
