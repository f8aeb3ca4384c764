"""The gRPC side of the shell in memory: codes and trailing metadata, bounds, streams whose requests fail one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from counting_model import CountingModel
from grpc_health.v1 import health_pb2
from memory_call import MemoryCall

from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.grpc_messages import ModelStreamInferResponse, set_parameter
from pilotlight_serving.grpc_service import HEALTH_SERVICE, SERVICE, HealthService, InferenceService
from pilotlight_serving.kserve_messages import predict_v2 as pb
from pilotlight_serving.settings import ServerSettings

pytestmark = pytest.mark.looptime
SETTINGS = ServerSettings(body_stall_timeout_s=20, keep_alive_s=60, model_control=True)


def infer(name: str = "counter", *, values: bool = True, id_: str = "7", **parameters: Any) -> bytes:
    message = pb.ModelInferRequest(model_name=name, id=id_)
    if values:
        tensor = message.inputs.add(name="values", datatype="INT32", shape=[2])
        tensor.contents.int_contents.extend([1, 2])
    for key, value in parameters.items():
        set_parameter(message.parameters, key, value)
    return bytes(message.SerializeToString())


class Shell:
    def __init__(self, settings: ServerSettings = SETTINGS, places: int = 8) -> None:
        self.model = CountingModel()
        self.limiter = ConcurrencyLimiter(places)
        self.plane = DataPlane(self.model, self.limiter, model_control=settings.model_control)
        self.inference = InferenceService(self.plane, self.limiter, settings).handler()
        self.health = HealthService(self.plane, settings).handler()

    async def ask(self, method: str, message: Any, answer: Any) -> Any:
        """Of a unary method that does not abort."""
        call = MemoryCall(message.SerializeToString())
        said = await call.run(self.inference, f"{SERVICE}/{method}")
        assert call.code is None, call.details
        return answer.FromString(said)

    async def refused(self, method: str, message: bytes) -> MemoryCall:
        call = MemoryCall(message)
        assert await call.run(self.inference, f"{SERVICE}/{method}") == b""
        return call

    async def stream(self, *messages: bytes) -> list[Any]:
        call = MemoryCall(*messages)
        await call.run(self.inference, f"{SERVICE}/ModelStreamInfer")
        assert call.code is None, call.details
        return [ModelStreamInferResponse.FromString(said) for said in call.written]

    async def full(self) -> asyncio.Task[bytes]:
        """Takes the only place with a request that goes on until it is cancelled."""
        waiting = asyncio.create_task(MemoryCall(infer(pause_s=600.0)).run(self.inference, f"{SERVICE}/ModelInfer"))
        while not self.limiter.in_flight:  # noqa: ASYNC110 the fake has no event
            await asyncio.sleep(0)
        return waiting


async def test_questions() -> None:
    shell = Shell()
    assert (await shell.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
    assert (await shell.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    shell.model.is_ready = False
    assert (await shell.ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
    assert not (await shell.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    assert not (await shell.ask("ModelReady", pb.ModelReadyRequest(name="counter"), pb.ModelReadyResponse)).ready


async def test_an_answer_names_its_request_and_its_phases() -> None:
    call = MemoryCall(infer(pause_s=0.5), metadata=[("x-request-id", "mine"), ("x-odd-bin", b"\xff")])
    answer = pb.ModelInferResponse.FromString(await call.run(Shell().inference, f"{SERVICE}/ModelInfer"))
    assert (answer.id, list(answer.outputs[0].contents.int_contents)) == ("7", [1, 2])
    assert call.trailing["x-request-id"] == "mine"
    assert "pause;dur=500" in call.trailing["server-timing"]


async def test_what_does_not_begin_in_its_senders_time_is_ended_and_what_has_begun_goes_on() -> None:
    shell, said = Shell(), [("x-request-timeout", "2")]
    late = MemoryCall(infer(pause_s=5.0), metadata=said)
    await late.run(shell.inference, f"{SERVICE}/ModelInfer")
    assert (late.code, len(shell.model.cancelled)) == (grpc.StatusCode.DEADLINE_EXCEEDED, 1)
    stream = MemoryCall(infer(pause_s=1.5, count=3), metadata=said)
    await stream.run(shell.inference, f"{SERVICE}/ModelStreamInfer")
    assert len(stream.written) == 3
    assert not any(ModelStreamInferResponse.FromString(each).error_message for each in stream.written)


@pytest.mark.parametrize(
    ("method", "message", "code", "words"),
    [
        ("ModelInfer", infer("nope"), grpc.StatusCode.NOT_FOUND, "no model 'nope'"),
        ("ModelInfer", infer(values=False), grpc.StatusCode.INVALID_ARGUMENT, "'values' is missing"),
        ("ModelInfer", b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "cannot be decoded"),
        ("ModelInfer", infer(pause_s=600.0, timeout=1_000_000), grpc.StatusCode.DEADLINE_EXCEEDED, "timeout"),
        ("ModelReady", pb.ModelReadyRequest(name="nope").SerializeToString(), grpc.StatusCode.NOT_FOUND, "nope"),
        (
            "RepositoryModelLoad",
            pb.RepositoryModelLoadRequest(model_name="org/adapter").SerializeToString(),
            grpc.StatusCode.NOT_FOUND,
            "only 'counter'",
        ),
    ],
)
async def test_errors_have_the_code_and_say_why(method: str, message: bytes, code: grpc.StatusCode, words: str) -> None:
    shell = Shell()
    call = await shell.refused(method, message)
    assert (call.code, words in call.details) == (code, True), call.details
    assert shell.limiter.in_flight == 0


async def test_the_parameter_that_is_wrong_is_named() -> None:
    assert (await Shell().refused("ModelInfer", infer(values=False))).trailing["x-pilotlight-param"] == "values"


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_clients_may_not_switch_the_model_off_unless_they_are_let(method: str) -> None:
    message = pb.RepositoryModelLoadRequest(model_name="counter").SerializeToString()
    call = await Shell(replace(SETTINGS, model_control=False)).refused(method, message)
    assert call.code is grpc.StatusCode.PERMISSION_DENIED
    assert "--model_control" in call.details


async def test_a_bug_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shell = Shell()
    shell.model.infer = None  # type: ignore[assignment]  # a bug, made
    call = await shell.refused("ModelInfer", infer())
    assert call.code is grpc.StatusCode.INTERNAL
    assert "NoneType" not in call.details
    (event,) = await shell.stream(infer())
    assert "NoneType" not in event.error_message
    assert event.infer_response.parameters["status"].int64_param == 500
    assert "failed" in caplog.text


async def test_a_full_server_says_when_to_come_back() -> None:
    shell = Shell(places=1)
    waiting = await shell.full()
    call = await shell.refused("ModelInfer", infer())
    assert call.code is grpc.StatusCode.UNAVAILABLE
    assert int(call.trailing["retry-after"]) >= 1
    (event,) = await shell.stream(infer(id_="late"))
    assert event.infer_response.id == "late"
    assert event.infer_response.parameters["retry_after_s"].int64_param >= 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(shell.model.cancelled) == 1
    assert (await shell.stream(infer(count=1)))[0].error_message == ""


async def test_an_error_ends_its_request_and_not_the_stream() -> None:
    events = await Shell().stream(
        infer("nope", id_="a"), b"\xff\xff", infer(values=False, id_="c"), infer(id_="d", count=2)
    )
    told = {event.infer_response.id: event for event in events if event.error_message}
    assert "no model 'nope'" in told["a"].error_message
    assert "cannot be decoded" in told[""].error_message
    assert told["c"].infer_response.parameters["param"].string_param == "values"
    assert [event.infer_response.id for event in events if not event.error_message] == ["d", "d"]


async def test_the_empty_last_response_comes_when_it_is_asked_for() -> None:
    *events, last = await Shell().stream(infer(count=2, triton_enable_empty_final_response=True))
    assert [event.infer_response.parameters["triton_final_response"].bool_param for event in events] == [False, False]
    assert last.infer_response.parameters["triton_final_response"].bool_param
    assert not last.infer_response.outputs


async def test_a_stream_runs_64_requests_at_once_and_reads_no_further() -> None:
    shell = Shell(places=1000)
    read = 0

    async def asking() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield infer(count=1, pause_s=1.0)

    call = MemoryCall()
    call.messages = asking()
    running = asyncio.create_task(call.run(shell.inference, f"{SERVICE}/ModelStreamInfer"))
    await asyncio.sleep(0.5)
    assert (shell.limiter.in_flight, read) == (64, 64)
    await running
    assert (len(call.written), shell.limiter.in_flight) == (100, 0)


@pytest.mark.parametrize("asked", [0, 1])
async def test_a_stream_on_which_nothing_comes_is_ended(asked: int) -> None:
    async def quiet() -> AsyncIterator[bytes]:
        for _ in range(asked):
            yield infer(count=1, pause_s=600.0)
        await asyncio.Event().wait()

    call = MemoryCall()
    call.messages = quiet()
    began_s = asyncio.get_running_loop().time()
    await call.run(Shell().inference, f"{SERVICE}/ModelStreamInfer")
    assert (call.code, "60 s" in call.details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    assert len(call.written) == asked, "what runs is let end"
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(60 + asked * 600)


async def test_a_call_without_its_message_is_ended() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    call = MemoryCall()
    call.messages = silent()
    await call.run(Shell().inference, f"{SERVICE}/ModelInfer")
    assert (call.code, "20 s" in call.details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    empty = MemoryCall()
    await empty.run(Shell().inference, f"{SERVICE}/ModelInfer")
    assert (empty.code, empty.details) == (grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")


async def health(shell: Shell, service: str) -> MemoryCall:
    call = MemoryCall(health_pb2.HealthCheckRequest(service=service).SerializeToString())
    if said := await call.run(shell.health, f"{HEALTH_SERVICE}/Check"):
        call.written.append(said)
    return call


async def test_health_of_the_server_its_models_and_strangers() -> None:
    shell = Shell()
    for ready, status in ((True, "SERVING"), (False, "NOT_SERVING")):
        shell.model.is_ready = ready
        for service in ("", SERVICE, "counter", "org/adapter"):
            (said,) = (await health(shell, service)).written
            assert health_pb2.HealthCheckResponse.FromString(said).status == getattr(
                health_pb2.HealthCheckResponse, status
            )
    assert (await health(shell, "nope")).code is grpc.StatusCode.NOT_FOUND


async def test_a_watch_tells_changes_only() -> None:
    shell = Shell()
    call = MemoryCall(health_pb2.HealthCheckRequest().SerializeToString())
    watching = asyncio.create_task(call.run(shell.health, f"{HEALTH_SERVICE}/Watch"))
    await asyncio.sleep(10)
    shell.model.is_ready = False
    await asyncio.sleep(10)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    statuses = [health_pb2.HealthCheckResponse.FromString(said).status for said in call.written]
    assert statuses == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
